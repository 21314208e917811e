//! Text that others wrote, made fit for a message.

/// `text` as one line of at most `most` characters: whatever breaks a line becomes a space, and what is too long ends
/// with an ellipsis.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    let mut line: String = text
        .chars()
        .take(most)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(most).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        assert_eq!(one_line("as it is", 8), "as it is");
        assert_eq!(one_line("two\nlines\u{7}", 20), "two lines ");
        assert_eq!(one_line("ééé", 2), "éé…");
    }
}
