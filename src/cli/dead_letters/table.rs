//! Prints text in columns as wide as their content.

use std::io::{self, Write};

use crate::cli::clean::clean;

/// Prints a table: the heads, then the rows, two blanks between columns. Cells may contain text from outside, so they are cleaned for
/// the terminal.
pub fn print(out: &mut dyn Write, heads: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let cleaned = |row: &Vec<String>| row.iter().map(|cell| clean(cell).into_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.iter().map(cleaned).collect();
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.chain([heads[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&heads).chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut out = Vec::new();
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        print(
            &mut out,
            &["PLACE", "STEP", "X"],
            &[row(["1:2", "länger", "1"]), row(["10:200", "", ""])],
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "PLACE   STEP    X\n1:2     länger  1\n10:200\n"
        );
    }

    #[test]
    fn a_cell_is_one_line_and_tells_a_terminal_nothing() {
        let mut out = Vec::new();
        print(
            &mut out,
            &["A", "B"],
            &[vec!["\u{1b}[2J".to_owned(), "x\ny".to_owned()]],
        )
        .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A     B\n\u{fffd}[2J  x y\n");
    }
}
