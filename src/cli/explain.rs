//! `messina explain`: what the code of a finding means, and what to do about it.

use std::process::ExitCode;

use super::answer;
use super::trouble::Trouble;
use crate::config::codes;

/// The page that has a section for each code.
const PAGE: &str = include_str!("../../docs/findings.md");

/// Explain the code of a finding, such as MES0101. Without a code, list all. Exit code 0, or 64 if there is no such code.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The code, as printed with the finding.
    code: Option<String>,
}

/// Runs the command.
pub fn run(args: &Explain) -> anyhow::Result<ExitCode> {
    let text: String = match &args.code {
        None => codes::ALL
            .iter()
            .map(|code| format!("{}  {}\n", code.id, code.meaning))
            .collect(),
        Some(code) => match section(&code.to_uppercase()) {
            Some(text) => format!("{text}\n"),
            None => {
                let message = format!("there is no code `{code}`; `messina explain` lists all");
                return Err(Trouble::Usage(message).into());
            }
        },
    };
    answer(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The section of a code, with the heading's Markdown marks removed.
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
