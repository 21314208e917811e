//! The figures beside what is aimed at and what Brupop needs.

use std::fmt;

/// One figure. All are the better the smaller they are.
pub(super) struct Row {
    what: String,
    unit: &'static str,
    measured: f64,
    aim: Option<f64>,
    brupop: Option<f64>,
}

impl Row {
    pub fn new(what: &str, unit: &'static str, measured: f64, aim: Option<f64>, brupop: Option<f64>) -> Self {
        Self {
            what: what.to_owned(),
            unit,
            measured,
            aim,
            brupop,
        }
    }

    /// By how much less than Brupop.
    fn ratio(&self) -> String {
        match self.brupop {
            Some(brupop) if self.measured > 0.0 => figure(brupop / self.measured),
            _ => String::new(),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.aim {
            Some(aim) if self.measured > aim => "missed",
            _ => "",
        }
    }
}

/// All figures.
#[derive(Default)]
pub(super) struct Table(pub Vec<Row>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<46} {:>10} {:>10} {:>10} {:>10}",
            "", "measured", "at most", "Brupop", "times less"
        )?;
        for row in &self.0 {
            let with_unit = |value: Option<f64>| {
                value.map_or_else(String::new, |value| {
                    format!("{} {}", figure(value), row.unit).trim_end().to_owned()
                })
            };
            let line = format!(
                "{:<46} {:>10} {:>10} {:>10} {:>10}  {}",
                row.what,
                with_unit(Some(row.measured)),
                with_unit(row.aim),
                with_unit(row.brupop),
                row.ratio(),
                row.verdict()
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Three digits are enough for anyone.
fn figure(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value < 1.0 => format!("{value:.3}"),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_whether_its_aim_is_missed_and_by_what_brupop_needs_more() {
        let table = Table(vec![
            Row::new("time", "s", 0.25, Some(0.5), Some(82.0)),
            Row::new("size", "MB", 7.0, Some(6.0), None),
            Row::new("idle", "", 0.0, Some(0.0), Some(0.42)),
        ]);
        let lines: Vec<String> = table
            .to_string()
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "measured at most Brupop times less",
                "time 0.250 s 0.500 s 82.0 s 328",
                "size 7.00 MB 6.00 MB missed",
                "idle 0 0 0.420",
            ]
        );
    }
}
