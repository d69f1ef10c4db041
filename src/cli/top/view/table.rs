//! Text in columns as wide as their content. If that is too wide, the first column is cut.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// The least width of the first column.
const LEAST: usize = 8;

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Lays out a head and rows of as many cells in this width.
pub(super) fn table(head: &[(&'static str, Side)], rows: Vec<Vec<Span<'static>>>, width: usize) -> Vec<Line<'static>> {
    let head_style = Style::new().add_modifier(Modifier::UNDERLINED);
    let titles = head.iter().map(|(title, _)| Span::styled(*title, head_style)).collect();
    let all: Vec<Vec<Span<'static>>> = std::iter::once(titles).chain(rows).collect();
    let mut widths: Vec<usize> = (0..head.len())
        .map(|n| {
            all.iter()
                .filter_map(|row| row.get(n))
                .map(Span::width)
                .max()
                .unwrap_or(0)
        })
        .collect();
    let needed = |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1);
    let gap = if needed(&widths, 2) > width { 1 } else { 2 };
    let over = needed(&widths, gap).saturating_sub(width);
    if let Some(first) = widths.first_mut() {
        *first = first.saturating_sub(over).max(LEAST.min(*first));
    }
    let line = |row: Vec<Span<'static>>| {
        let mut spans = Vec::new();
        for (n, (cell, (width, (_, side)))) in row.into_iter().zip(widths.iter().zip(head)).enumerate() {
            let cell = cut(cell, *width);
            let room = " ".repeat(width.saturating_sub(cell.width()));
            if n > 0 {
                spans.push(Span::raw(" ".repeat(gap)));
            }
            match side {
                Side::Left => spans.extend([cell, Span::raw(room)]),
                Side::Right => spans.extend([Span::raw(room), cell]),
            }
        }
        Line::from(spans)
    };
    all.into_iter().map(line).collect()
}

/// The text, or as much as fits, with a mark that there is more.
fn cut(span: Span<'static>, width: usize) -> Span<'static> {
    if span.width() <= width {
        return span;
    }
    let mut text = String::new();
    for c in span.content.chars() {
        text.push(c);
        if Span::raw(text.as_str()).width() + 1 > width {
            text.pop();
            break;
        }
    }
    Span::styled(text + "…", span.style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(rows: &[[&'static str; 2]], width: usize) -> Vec<String> {
        let head = [("NAME", Side::Left), ("N", Side::Right)];
        let rows = rows.iter().map(|row| row.map(Span::raw).to_vec()).collect();
        table(&head, rows, width).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        assert_eq!(
            drawn(&[["a", "10"], ["abcde", "7"]], 80),
            ["NAME    N", "a      10", "abcde   7"]
        );
        assert_eq!(drawn(&[["日本", "1"]], 80), ["NAME  N", "日本  1"]);
        assert_eq!(drawn(&[], 80), ["NAME  N"]);
    }

    #[test]
    fn the_first_column_gives_way() {
        assert_eq!(drawn(&[["abcdefghijkl", "1"]], 12), ["NAME       N", "abcdefghi… 1"]);
        assert_eq!(drawn(&[["日本日本日本", "1"]], 11), ["NAME      N", "日本日本… 1"]);
        // The first column does not shrink below the width that tells rows apart. The terminal cuts the rest.
        assert_eq!(drawn(&[["abcdefghijkl", "1"]], 3)[1], "abcdefg… 1");
    }
}
