//! How many steps searches take, counted in tests: how long they take is the machine's doing, how many they are is ours.

/// One step: a day looked at, a row of named times, an offset asked for.
#[inline]
pub(super) fn step() {
    #[cfg(test)]
    tests::TAKEN.with(|taken| taken.set(taken.get() + 1));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::cell::Cell;

    use chrono::{DateTime, TimeDelta, Utc};

    use super::super::{WindowState, Windows};

    thread_local! {
        pub(super) static TAKEN: Cell<u64> = const { Cell::new(0) };
    }

    fn steps<T>(search: impl FnOnce() -> T) -> (u64, T) {
        let before = TAKEN.get();
        let found = search();
        (TAKEN.get() - before, found)
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn windows(windows: &str, exclusions: &str) -> Windows {
        let read = |yaml| serde_saphyr::from_str::<Vec<_>>(yaml).unwrap();
        Windows::parse(&read(windows), &read(exclusions)).unwrap()
    }

    #[test]
    fn the_rarest_days_are_found_in_few_steps() {
        // Days of the months that are named, years and months that are skipped, and the zone's offsets.
        let rare = [
            ("0 2 29 2 *", "2028-02-29T01:00:00Z"),
            ("0 2 * 2 SUN#5", "2032-02-29T01:00:00Z"),
            ("0 2 * 2 SAT#5", "2048-02-29T01:00:00Z"),
            ("0 0 2 29 2 SAT", "2048-02-29T01:00:00Z"),
            ("0 0 2 29 2 SAT 2076", "2076-02-29T01:00:00Z"),
            ("0 2 31 12 *", "2026-12-31T01:00:00Z"),
            ("0 2 L 2 *", "2027-02-28T01:00:00Z"),
        ];
        for (schedule, next) in rare {
            let schedule =
                format!("[{{name: w, schedule: '{schedule}', timeZone: Europe/Berlin, duration: 1h}}]");
            let (windows, next) = (windows(&schedule, "[]"), time(next));
            let mut most = 0;
            for day in 0..20 {
                let at = time("2026-03-01T00:00:00Z") + TimeDelta::days(day);
                let (taken, state) = steps(|| windows.at(at));
                assert!(matches!(state, WindowState::Closed { next: Some(found), .. } if found.at == next));
                most = most.max(taken);
            }
            // The years between the last and the next are gone through some three times: day by day, ten thousands of steps.
            assert!(most <= 5_000, "{schedule}: {most} steps");
        }
    }

    #[test]
    fn windows_that_exclusions_always_cover_are_found_out_in_bounded_steps() {
        let covered = [
            (
                "[{name: w, schedule: '0 2 * * *', duration: 1h}]",
                "[{name: x, schedule: '0 0 * * *', duration: 6h}]",
            ),
            (
                "[{name: w, start: 2026-11-22T08:00:00Z, end: 2026-11-22T10:00:00Z}]",
                "[{name: x, schedule: '* * * * *', duration: 5m}]",
            ),
            ("[]", "[{name: x, schedule: '* * * * * *'}]"),
        ];
        for (open, excluded) in covered {
            let windows = windows(open, excluded);
            for i in 0..20 {
                let now = time("2026-11-22T01:00:00Z") + TimeDelta::hours(7 * i);
                let (taken, (state, open, change)) = steps(|| {
                    let open = windows.open_between(now, now + TimeDelta::days(30));
                    (windows.at(now), open, windows.next_change(now))
                });
                assert_eq!((open, change), (TimeDelta::zero(), None));
                assert!(
                    matches!(state, WindowState::Closed { next: None, .. }),
                    "{state:?}"
                );
                assert!(taken <= 50_000, "{open} {excluded}: {taken} steps");
            }
        }
    }
}
