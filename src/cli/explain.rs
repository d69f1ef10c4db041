//! `messina explain`: what a code of a finding means, and what to do about it.

use std::process::ExitCode;

use crate::config::codes;
use crate::shutdown::Exit;

/// The page that has a section for each code.
const PAGE: &str = include_str!("../../docs/findings.md");

/// Explains a code of a finding, such as MES0101; without one, lists all. Exit 0, or 64 where there is no such code.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The code, as the finding has it.
    code: Option<String>,
}

/// Runs the command.
pub fn run(args: &Explain) -> ExitCode {
    let Some(code) = &args.code else {
        for code in codes::ALL {
            println!("{}  {}", code.id, code.meaning);
        }
        return ExitCode::SUCCESS;
    };
    match section(&code.to_uppercase()) {
        Some(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("error: there is no code `{code}`; `messina explain` lists all");
            Exit::Usage.into()
        }
    }
}

/// A code's section of the page, its heading without the marks of Markdown.
fn section(id: &str) -> Option<&'static str> {
    let heading = format!("\n## {id}: ");
    let start = PAGE.find(&heading)? + "\n## ".len();
    let text = &PAGE[start..];
    Some(text.find("\n## ").map_or(text, |end| &text[..end]).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_section_of_its_meaning_and_no_section_is_of_none() {
        for code in codes::ALL {
            let text = section(code.id).unwrap_or_else(|| panic!("docs/findings.md has no section for {}", code.id));
            let (heading, body) = text.split_once("\n\n").unwrap();
            assert_eq!(heading, format!("{}: {}", code.id, code.meaning));
            assert!(body.len() > 40, "{}: {body}", code.id);
            assert!(!body.contains("\n## "));
        }
        let sections: Vec<_> = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let codes: Vec<_> = codes::ALL
            .iter()
            .map(|code| format!("{}: {}", code.id, code.meaning))
            .collect();
        assert_eq!(sections, codes, "in the order of the codes");
        assert!(section("MES9999").is_none());
        assert!(section("MES").is_none());
    }
}
