//! Rows of text with their columns in line.

/// Lines of `rows` under `headers`, the first `left` columns aligned to the left, all others to
/// the right. A row may be short; it ends where its cells end.
pub(crate) fn render(headers: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&headers).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    std::iter::once(&headers).chain(rows).map(|row| line(row, &widths, left)).collect()
}

fn line(row: &[String], widths: &[usize], left: usize) -> String {
    let cells = row.iter().zip(widths).enumerate();
    let cells = cells.map(|(column, (cell, &width))| match column < left {
        true => format!("{cell:<width$}"),
        false => format!("{cell:>width$}"),
    });
    let text = cells.collect::<Vec<_>>().join("  ");
    format!("{}\n", text.trim_end())
}

/// The same as a table of Markdown.
pub(crate) fn markdown(headers: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
    let side = |column| if column < left { ":--" } else { "--:" };
    let sides: Vec<String> = (0..headers.len()).map(|column| side(column).to_owned()).collect();
    [headers, sides].iter().chain(rows).map(|cells| line(cells)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let rows = [vec!["put".to_owned(), "1415".to_owned()], vec!["linearizable".to_owned()]];
        let text = render(&["operation", "ops/s"], &rows, 1);
        assert_eq!(text, "operation     ops/s\nput            1415\nlinearizable\n");
    }

    #[test]
    fn a_markdown_table_says_which_columns_are_numbers() {
        let rows = [vec!["put".to_owned(), "1415".to_owned()]];
        let text = markdown(&["operation", "ops/s"], &rows, 1);
        assert_eq!(text, "| operation | ops/s |\n| :-- | --: |\n| put | 1415 |\n");
    }
}
