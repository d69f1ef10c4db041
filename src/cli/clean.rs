//! Makes text from outside safe to print on a terminal.

use std::borrow::Cow;

/// Replaces whatever a terminal or a reader could take for something other than a visible character.
pub fn clean(text: &str) -> Cow<'_, str> {
    let drives = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if !text.contains(drives) {
        return Cow::Borrowed(text);
    }
    let one = |c: char| match c {
        '\n' | '\t' => ' ',
        c if drives(c) => '\u{fffd}',
        c => c,
    };
    Cow::Owned(text.chars().map(one).collect())
}

/// Like [`clean`], for text of several lines, which stay lines.
pub fn plain(text: &str) -> String {
    text.split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(plain("a\u{1b}[2Jb\u{9b}1m\nc"), "a\u{fffd}[2Jb\u{fffd}1m\nc");
        assert_eq!(clean("a\nb"), "a b");
    }
}
