//! The documentation is consistent: every page is in the book, every link leads somewhere, and the recipes of docs/cookbook.md are what they claim to be:
//! each is on the page verbatim, passes the check, and its cases pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use messina::shutdown::Exit;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    root().join("config/cookbook")
}

/// The pages of docs, relative to that folder.
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

/// The targets of a page's links, except those in code.
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

#[test]
fn every_exit_code_is_in_the_table() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, behind) = page.split_once("## Exit codes\n").unwrap();
    let (table, _) = behind.split_once("\n## ").unwrap();
    let code = |line: &str| line.split('|').nth(1)?.trim().parse().ok();
    let codes: Vec<i32> = table.lines().filter_map(code).collect();
    let [usage, unavailable, internal, config] =
        [Exit::Usage, Exit::Unavailable, Exit::Internal, Exit::Config].map(|exit| exit as i32);
    // A failed case is an ordinary failure, and the shell reports the end by a signal.
    assert_eq!(codes, [0, 1, usage, unavailable, internal, config, 130]);
}

/// All Rust files below a folder, except tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path
            .file_stem()
            .is_some_and(|name| name.to_string_lossy().ends_with("tests"));
        if is_test {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// A code that nothing reports is a promise that nobody keeps.
#[test]
fn every_code_of_a_finding_is_reported_somewhere() {
    let page = std::fs::read_to_string(root().join("docs/findings.md")).unwrap();
    let declared = std::fs::read_to_string(root().join("src/config/codes.rs")).unwrap();
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let code: String = files
        .iter()
        .filter(|file| !file.ends_with("config/codes.rs"))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let (mut seen, mut unused) = (0, Vec::new());
    for line in page.lines().filter_map(|line| line.strip_prefix("## MES")) {
        let (number, _) = line.split_once(':').unwrap();
        let (before, _) = declared.split_once(&format!(" = \"MES{number}\"")).unwrap();
        let name = before.rsplit(char::is_whitespace).next().unwrap();
        let path = format!("codes::{name}");
        let is_whole = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
        if !code.split(&path).skip(1).any(is_whole) {
            unused.push(name.to_owned());
        }
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
    assert!(unused.is_empty(), "no finding has {unused:?}");
}

/// The words of the three tables of reasons: permanent failures, transient ones, and fatal ones.
fn reasons() -> [Vec<String>; 3] {
    let page = std::fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let (_, behind) = page.split_once("## Reasons\n").unwrap();
    let (section, _) = behind.split_once("\n## ").unwrap();
    let words = |table: &str| -> Vec<String> {
        let cells = table
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split('|').next());
        let told = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        told.map(str::to_owned).collect()
    };
    let tables = section.split("\n\n").filter(|part| part.starts_with('|'));
    let tables: Vec<_> = tables.map(words).collect();
    tables.try_into().expect("three tables")
}

#[test]
fn every_reason_of_a_failure_is_in_the_tables_and_no_other() {
    let told = reasons().concat();
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    assert!(told.len() > 80, "{told:?}");
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let (mut untold, mut code) = (std::collections::BTreeSet::new(), String::new());
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        // How failures are made in the code: with class and reason in this order, or with the reason alone.
        for made in [
            "::permanent(",
            "::transient(",
            "::fatal(",
            "Permanent,",
            "Transient,",
            "Fatal,",
            " reason:",
        ] {
            let words = text.split(made).skip(1).filter_map(|rest| {
                let (word, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
                Some(word).filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
            });
            untold.extend(words.filter(|word| !told.contains(word)).map(str::to_owned));
        }
        code.push_str(text);
    }
    assert!(untold.is_empty(), "docs/reliability.md does not tell of {untold:?}");
    let gone: Vec<&&str> = told
        .iter()
        .filter(|word| !code.contains(&format!("\"{word}\"")))
        .collect();
    assert!(gone.is_empty(), "no failure has {gone:?}");
}

/// The class decides how a record ends.
#[test]
fn every_reason_of_the_database_is_in_the_table_of_its_class() {
    let text = std::fs::read_to_string(root().join("src/store/classify.rs")).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (class, table) in ["Permanent", "Transient", "Fatal"].into_iter().zip(reasons()) {
        for rest in text.split(&format!("({class}, \"")).skip(1) {
            let (word, _) = rest.split_once('"').unwrap();
            seen += 1;
            // A login refused at the start is a configuration mistake; the table is about one that is refused later.
            let at_the_start = (class, word) == ("Fatal", "authentication");
            if !at_the_start && !table.iter().any(|told| told == word) {
                wrong.push(format!("{class}: {word}"));
            }
        }
    }
    assert!(seen > 60, "{seen}");
    assert!(wrong.is_empty(), "other classes in docs/reliability.md: {wrong:?}");
}

/// The names of all recipes.
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
        .env("OTLP_AUTHORIZATION", "Bearer of nothing")
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

/// README and all pages, with their texts.
fn texts() -> Vec<(String, String)> {
    let pages = pages().into_iter().map(|page| format!("docs/{page}"));
    let all = pages.chain(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()]);
    all.map(|page| {
        let text = std::fs::read_to_string(root().join(&page)).unwrap();
        (page, text)
    })
    .collect()
}

/// The code blocks of a language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let begin = format!("```{language}\n");
    text.split(&begin)
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect()
}

#[test]
fn every_command_that_is_shown_exists_with_its_options() {
    let (mut helps, mut wrong, mut seen) = (std::collections::BTreeMap::new(), Vec::new(), 0);
    for (page, text) in texts() {
        let commands = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("messina "));
        for line in commands.filter(|line| !line.starts_with(|c: char| c.is_uppercase())) {
            let line = line
                .split(" #")
                .next()
                .unwrap_or_default()
                .replace(['[', ']', '`'], " ");
            let mut words = line.split_whitespace().peekable();
            let mut command = vec![words.next().unwrap_or_default().to_owned()];
            if command[0] == "dead-letters" {
                command.extend(words.next().map(str::to_owned));
            }
            let help = helps.entry(command.clone()).or_insert_with(|| {
                let arguments: Vec<PathBuf> = command
                    .iter()
                    .chain(["--help".to_owned()].iter())
                    .map(PathBuf::from)
                    .collect();
                let output = messina(&arguments);
                output.status.success().then(|| words_of(&output))
            });
            let Some(help) = help else {
                wrong.push(format!("{page}: there is no `messina {}`", command.join(" ")));
                continue;
            };
            seen += 1;
            let options = words.filter(|word| word.len() > 1 && word.starts_with('-'));
            for option in options.map(|word| word.split('=').next().unwrap_or_default()) {
                if !help.contains(&option.to_owned()) {
                    wrong.push(format!("{page}: `messina {}` has no {option}", command.join(" ")));
                }
            }
        }
    }
    assert!(seen > 30, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The words of a help text, without punctuation.
fn words_of(output: &Output) -> Vec<String> {
    let text = words(output);
    let split = text.split(|c: char| c.is_whitespace() || ",[]=<>()`".contains(c));
    split.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn every_configuration_that_is_shown_is_one() {
    let own = std::fs::read_to_string(root().join("examples/geo/pipeline.toml")).unwrap();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs-snippets");
    std::fs::create_dir_all(&scratch).unwrap();
    let mut seen = 0;
    for (page, text) in texts().iter().filter(|(page, _)| page != "docs/cookbook.md") {
        for block in blocks(text, "toml") {
            seen += 1;
            // A custom step is known only to its own program.
            if block.contains("custom = ") {
                assert!(
                    own.contains(block.trim()),
                    "{page}: examples/geo/pipeline.toml does not have\n{block}"
                );
                continue;
            }
            let file = scratch.join(format!("{seen}.toml"));
            let secret = scratch.join("secret");
            std::fs::write(&secret, "secret").unwrap();
            let secret = format!("\"{}\"", secret.display());
            std::fs::write(&file, block.replace("\"/run/secrets/registry\"", &secret)).unwrap();
            let whole = block.contains("[kafka]");
            let others = if whole {
                vec![]
            } else {
                vec![folder().join("services.toml"), folder().join("enrich.toml")]
            };
            let mut arguments = vec![PathBuf::from("check")];
            for file in others.into_iter().chain([file]) {
                arguments.extend([PathBuf::from("-c"), file]);
            }
            let output = messina(&arguments);
            assert_eq!(output.status.code(), Some(0), "{page}: {}{block}", words(&output));
        }
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn the_step_that_is_shown_has_the_signatures_of_the_example() {
    let page = std::fs::read_to_string(root().join("docs/custom-steps.md")).unwrap();
    let example = std::fs::read_to_string(root().join("examples/geo/main.rs")).unwrap();
    let example: String = example.split_whitespace().collect();
    let mut seen = 0;
    for line in blocks(&page, "rust,ignore").iter().flat_map(|block| block.lines()) {
        let Some((signature, _)) = line.split_once('{').filter(|(signature, _)| signature.contains("fn ")) else {
            continue;
        };
        seen += 1;
        let signature: String = signature.split_whitespace().collect();
        assert!(example.contains(&signature), "examples/geo/main.rs has no {line}");
    }
    assert!(seen >= 4, "{seen}");
}
