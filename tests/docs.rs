//! The documentation holds together: every page is in the book, every link leads somewhere, and the recipes of docs/cookbook.md are what they are said to
//! be: each is on the page as it is, passes the check, and its cases pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    root().join("config/cookbook")
}

/// The pages of docs, relative to it.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    for folder in ["", "runbooks/"] {
        for entry in std::fs::read_dir(root().join("docs").join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") && name != "SUMMARY.md" {
                pages.push(format!("{folder}{name}"));
            }
        }
    }
    assert!(pages.len() > 30, "{pages:?}");
    pages
}

/// The targets of a page's links, code left out.
fn links(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    let mut links = Vec::new();
    for part in prose.split("](").skip(1) {
        links.extend(part.split_once(')').map(|(target, _)| target.to_owned()));
    }
    links
}

#[test]
fn every_page_is_in_the_book() {
    let book = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for page in pages() {
        assert!(
            book.contains(&format!("]({page})")),
            "docs/SUMMARY.md does not have {page}"
        );
    }
}

#[test]
fn every_link_leads_to_a_file() {
    let pages = pages().into_iter().map(|page| format!("docs/{page}"));
    let others = ["README.md", "DESIGN.md", "CONTRIBUTING.md", "docs/SUMMARY.md"].map(str::to_owned);
    let (mut broken, mut seen) = (Vec::new(), 0);
    for page in pages.chain(others) {
        let text = std::fs::read_to_string(root().join(&page)).unwrap();
        for link in links(&text) {
            let (file, _) = link.split_once('#').unwrap_or((&link, ""));
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let from = root().join(&page);
            if !from.parent().unwrap().join(file).exists() {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// All recipes, by name.
fn recipes() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
        .filter(|name| name != "services" && !name.ends_with(".test"))
        .collect();
    names.sort();
    assert!(names.len() >= 11, "{names:?}");
    names
}

fn messina(arguments: &[PathBuf]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_messina"))
        .args(arguments)
        .output()
        .unwrap()
}

fn words(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_recipe_is_on_the_page_as_it_is() {
    let page = std::fs::read_to_string(root().join("docs/cookbook.md")).unwrap();
    for name in recipes() {
        let text = std::fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap();
        assert!(
            page.contains(&format!("```toml\n{text}```")),
            "docs/cookbook.md does not have {name}.toml as it is"
        );
    }
}

#[test]
fn every_recipe_passes_the_check() {
    for name in recipes() {
        let files = ["services".to_owned(), name.clone()].map(|name| folder().join(format!("{name}.toml")));
        let output = messina(&[
            "check".into(),
            "-c".into(),
            files[0].clone(),
            "-c".into(),
            files[1].clone(),
        ]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", words(&output));
        assert!(!words(&output).contains("warning"), "{name}: {}", words(&output));
    }
}

#[test]
fn every_recipes_cases_pass_and_try_all_of_it() {
    let mut arguments = vec!["test".into()];
    arguments.extend(recipes().iter().map(|name| folder().join(format!("{name}.test.toml"))));
    let output = messina(&arguments);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("not tried"), "{said}");
}
