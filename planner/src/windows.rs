//! When a plan may disrupt: inside the union of its maintenance windows, and outside its exclusions.
//!
//! * `fields`: the local times that a schedule names
//! * `zone`: local times and the instants at which a zone's clocks show them
//! * `schedule`: when a schedule starts, and how its text is read
//! * `read`: the windows of a plan, parsed
//! * `steps`: what a search costs, counted in tests
//!
//! Every search is bounded, whatever the schedules are like: [`Windows::at`] is asked in every round.

mod fields;
mod read;
mod schedule;
mod steps;
mod zone;

use std::cmp::Reverse;

use chrono::{DateTime, TimeDelta, Utc};
use schedule::Schedule;

/// A plan's windows and exclusions. None at all: always open.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    windows: Vec<Window>,
    exclusions: Vec<Window>,
    waiting_since: Option<DateTime<Utc>>,
    ignored: bool,
}

#[derive(Clone, Debug)]
struct Window {
    name: String,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Once {
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    },
    /// Open for so long from each start on.
    Recurring { schedule: Schedule, duration: TimeDelta },
    /// Open whenever the schedule names the time.
    Named(Schedule),
    /// Open from a start on until the run that waited for it is done.
    UntilDone(Schedule),
}

/// Whether a plan may disrupt at some instant, and when that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// The plan may disrupt at any time, from now on.
    Always,
    /// A window is open.
    Open {
        /// The name of the one that closes last, of it and those that follow without a gap, as far as an exclusion lets
        /// them. None: the plan has none, or there are several and it is not known which.
        name: Option<String>,
        /// When that closes. The instant itself is outside. Where `by` is not known, this is as far as was looked.
        closes: DateTime<Utc>,
        /// What closes it.
        by: Closing,
    },
    /// No window is open, or an exclusion is on.
    Closed {
        /// When one opens next. None: never again, or none was found.
        next: Option<Opening>,
        /// Whether there may be one for all that: so many exclusions are in the way that the search was given up.
        unsure: bool,
        /// The exclusion but for which a window would be open.
        exclusion: Option<String>,
        /// When that may change, though nothing opens. None: it does not.
        again: Option<DateTime<Utc>>,
    },
}

/// What closes a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Its own end.
    End,
    /// An exclusion of this name, which begins.
    Exclusion(String),
    /// The end of the run: it has no other.
    RunDone,
    /// So many windows follow without a gap that it is not known.
    Unknown,
}

/// When a window opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// When.
    pub at: DateTime<Utc>,
    /// Its name. None: the plan has no windows, and an exclusion ends.
    pub name: Option<String>,
}

/// The instant at which a plan's windows open or close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: DateTime<Utc>,
    /// Whether they are open from then on.
    pub open: bool,
}

/// How many windows, or exclusions, are gone through in one search. Beyond that a close is given earlier than it is, which
/// is on the safe side, and moves on as time does.
const JOINED: usize = 400;

/// How far is looked for a close.
const FAR: TimeDelta = TimeDelta::days(3653);

/// How many times a window may open in an interval of which it is said how long they are open.
const OPENINGS: usize = 1000;

/// What the windows that are still to open have for something that takes a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// The first that is long enough opens then.
    From(DateTime<Utc>),
    /// None is long enough, as far as was looked. This is the first of the longest.
    TooShort {
        opens: DateTime<Utc>,
        open: TimeDelta,
        exclusion: Option<String>,
    },
    /// None opens.
    None,
}

/// How many windows are looked at for one that is long enough: those of each night of a year.
const LOOKED_AT: usize = 400;

/// When a window that is open closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    At(DateTime<Utc>),
    RunDone,
    Never,
}

impl End {
    fn time(self) -> Option<DateTime<Utc>> {
        match self {
            Self::At(at) => Some(at),
            Self::RunDone | Self::Never => None,
        }
    }
}

/// More was to be gone through than is.
struct GivenUp;

impl Windows {
    /// The same for a run whose nodes have waited for a window since this time: a schedule of single instants opens a
    /// window for those that wait at one. None, as at first: nothing waits.
    #[must_use]
    pub fn waiting_since(self, since: Option<DateTime<Utc>>) -> Self {
        Self {
            waiting_since: since,
            ..self
        }
    }

    /// Whether there is a window that is open until the run is done.
    #[must_use]
    pub fn open_until_done(&self) -> bool {
        let until_done = |window: &Window| matches!(window.form, Form::UntilDone(_));
        self.windows.iter().any(until_done)
    }

    /// Without the windows, where they are ignored; exclusions stay.
    #[must_use]
    pub fn ignored(mut self, ignored: bool) -> Self {
        if ignored && self.are_any() {
            self.windows.clear();
            self.ignored = true;
        }
        self
    }

    /// Whether the plan has windows, and they are ignored.
    #[must_use]
    pub const fn are_ignored(&self) -> bool {
        self.ignored
    }

    /// Whether the plan has any windows.
    #[must_use]
    pub const fn are_any(&self) -> bool {
        !self.windows.is_empty() || self.ignored
    }

    /// Whether the plan may disrupt at `now`.
    #[must_use]
    pub fn at(&self, now: DateTime<Utc>) -> WindowState {
        match (self.excluded(now), self.open_at(now)) {
            (None, Some((_, end))) => self.open(now, end),
            (Some((excluded, exclusion)), Some((_, end))) => {
                // One that begins meanwhile may last longer, and is the one to name then.
                let begins = self.exclusions.iter().filter_map(|other| other.opens_after(now));
                let again = end.min(excluded).time().into_iter().chain(begins).min();
                self.closed(now, Some(exclusion), again)
            }
            (_, None) => self.closed(now, None, self.window_after(now)),
        }
    }

    fn closed(
        &self,
        now: DateTime<Utc>,
        exclusion: Option<&str>,
        again: Option<DateTime<Utc>>,
    ) -> WindowState {
        let next = self.opening(now);
        WindowState::Closed {
            unsure: next.is_err(),
            next: next.ok().flatten(),
            exclusion: exclusion.map(str::to_owned),
            again,
        }
    }

    /// The state at an instant at which a window is open.
    fn open(&self, now: DateTime<Utc>, end: End) -> WindowState {
        let excluded = self.exclusions.iter().filter_map(|exclusion| {
            let begins = exclusion.opens_after(now)?;
            Some((begins, exclusion.name.as_str()))
        });
        let excluded = excluded.min();
        let mut end = end;
        let mut by = Closing::Unknown;
        for _ in 0..JOINED {
            let End::At(closes) = end else { break };
            if closes > now + FAR || excluded.is_some_and(|(begins, _)| closes > begins) {
                break;
            }
            let Some((_, later)) = self.open_at(closes) else {
                by = Closing::End;
                break;
            };
            end = later;
        }
        let (closes, by) = match (end, excluded) {
            (End::At(closes), Some((begins, exclusion))) if closes > begins => {
                (begins, Closing::Exclusion(exclusion.to_owned()))
            }
            (End::At(closes), _) => (closes, by),
            (_, Some((begins, exclusion))) => (begins, Closing::Exclusion(exclusion.to_owned())),
            (End::RunDone, None) => (now + FAR, Closing::RunDone),
            (End::Never, None) => return WindowState::Always,
        };
        // Of those that are open to the end: else another name would be told as soon as one more opens.
        let name = match by {
            Closing::End | Closing::Exclusion(_) => self
                .open_at(closes - TimeDelta::milliseconds(1))
                .and_then(|(last, _)| last),
            Closing::RunDone => self.only(|form| matches!(form, Form::UntilDone(_))),
            Closing::Unknown => self.only(|_| true),
        };
        WindowState::Open {
            name: name.map(str::to_owned),
            closes,
            by,
        }
    }

    /// The name of the window of such a form, where there is just one.
    fn only(&self, such: impl Fn(&Form) -> bool) -> Option<&str> {
        let mut such = self.windows.iter().filter(|window| such(&window.form));
        let first = such.next()?;
        such.next().is_none().then_some(first.name.as_str())
    }

    /// The first instant after `at` at which the windows open, having been closed.
    #[must_use]
    pub fn opens_after(&self, at: DateTime<Utc>) -> Option<Opening> {
        match self.at(at) {
            WindowState::Always => None,
            WindowState::Closed { next, .. } => next,
            WindowState::Open { closes, .. } => match self.at(closes) {
                WindowState::Closed { next, .. } => next,
                WindowState::Always | WindowState::Open { .. } => None,
            },
        }
    }

    /// The first window that opens after `at` and is open for so long.
    pub(crate) fn room(&self, at: DateTime<Utc>, long: TimeDelta) -> Room {
        let mut longest: Option<(TimeDelta, DateTime<Utc>, WindowState)> = None;
        let mut next = self.opens_after(at);
        for _ in 0..LOOKED_AT {
            let Some(Opening { at: opens, .. }) = next.filter(|next| next.at < at + FAR) else {
                break;
            };
            let then = self.at(opens);
            // What waits for an instant may not have begun to yet; then it is open until that is done.
            let Some(closes) = then.not_after(opens).filter(|closes| *closes > opens) else {
                return Room::From(opens);
            };
            let open = closes - opens;
            if open >= long {
                return Room::From(opens);
            }
            if longest.as_ref().is_none_or(|(most, ..)| open > *most) {
                longest = Some((open, opens, then));
            }
            next = match self.at(closes) {
                WindowState::Closed { next, .. } => next,
                WindowState::Always | WindowState::Open { .. } => None,
            };
        }
        longest.map_or(Room::None, |(open, opens, then)| Room::TooShort {
            opens,
            open,
            exclusion: then.exclusion().map(str::to_owned),
        })
    }

    /// The first change after `at`. None: there is none, or none as far as is looked.
    #[must_use]
    pub fn next_change(&self, at: DateTime<Utc>) -> Option<Change> {
        match self.at(at) {
            WindowState::Always => None,
            WindowState::Closed { next, .. } => next.map(|next| Change {
                at: next.at,
                open: true,
            }),
            WindowState::Open { closes, by, .. } => match by {
                Closing::End | Closing::Exclusion(_) => Some(Change {
                    at: closes,
                    open: false,
                }),
                Closing::RunDone | Closing::Unknown => None,
            },
        }
    }

    /// For how long the windows are open between two instants. In an interval with more than a thousand openings it is
    /// that of the first thousand.
    #[must_use]
    pub fn open_between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> TimeDelta {
        let mut open = TimeDelta::zero();
        let mut at = from;
        for _ in 0..2 * OPENINGS {
            if at >= to {
                break;
            }
            at = match self.at(at) {
                WindowState::Always => return open + (to - at),
                WindowState::Open { closes, .. } => {
                    open += closes.min(to) - at;
                    closes
                }
                WindowState::Closed { next, .. } => match next {
                    Some(next) => next.at,
                    None => break,
                },
            };
        }
        open
    }

    /// When the windows have been open for so long since `from`. None: never, or not within a thousand openings.
    #[must_use]
    pub fn has_been_open(&self, from: DateTime<Utc>, long: TimeDelta) -> Option<DateTime<Utc>> {
        let (mut left, mut at) = (long, from);
        for _ in 0..2 * OPENINGS {
            at = match self.at(at) {
                WindowState::Always => return at.checked_add_signed(left),
                WindowState::Open { closes, .. } if closes - at >= left => return Some(at + left),
                WindowState::Open { closes, .. } => {
                    left -= closes - at;
                    closes
                }
                WindowState::Closed { next, .. } => next?.at,
            };
        }
        None
    }

    /// The first instant from `from` on at which a window is open and no exclusion is on. An error where the search was
    /// given up.
    fn opening(&self, from: DateTime<Utc>) -> Result<Option<Opening>, GivenUp> {
        // Whatever waits later will have waited since after now.
        let since = self.waiting_since.unwrap_or(from + TimeDelta::nanoseconds(1));
        let mut at = from;
        for _ in 0..JOINED {
            if let Some((end, _)) = self.excluded(at) {
                let Some(end) = end.time() else { return Ok(None) };
                at = end;
            } else if let Some((name, _)) = self.open_for(at, Some(since)) {
                let name = name.map(str::to_owned);
                return Ok(Some(Opening { at, name }));
            } else {
                match self.window_after(at) {
                    Some(opens) => at = opens,
                    None => return Ok(None),
                }
            }
        }
        Err(GivenUp)
    }

    /// When the next window begins after `at`, as far as exclusions are not looked at.
    fn window_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let opens = self.windows.iter().filter_map(|window| window.opens_after(at));
        opens.min()
    }

    /// The window open at `at` that closes last, as far as exclusions are not looked at.
    fn open_at(&self, at: DateTime<Utc>) -> Option<(Option<&str>, End)> {
        self.open_for(at, self.waiting_since)
    }

    /// The same for nodes that have waited since this time.
    fn open_for(&self, at: DateTime<Utc>, since: Option<DateTime<Utc>>) -> Option<(Option<&str>, End)> {
        if self.windows.is_empty() {
            return Some((None, End::Never));
        }
        let (end, name) = last_to_end(&self.windows, at, since)?;
        Some((Some(name), end))
    }

    /// The exclusion that is on at `at` and ends last.
    fn excluded(&self, at: DateTime<Utc>) -> Option<(End, &str)> {
        last_to_end(&self.exclusions, at, None)
    }
}

/// Of those that are open, the one that closes last; the first by name where two do.
fn last_to_end(windows: &[Window], at: DateTime<Utc>, since: Option<DateTime<Utc>>) -> Option<(End, &str)> {
    let open = windows.iter().filter_map(|window| {
        let end = window.end_if_open(at, since)?;
        Some((end, window.name.as_str()))
    });
    open.max_by_key(|(end, name)| (*end, Reverse(*name)))
}

impl WindowState {
    /// Until when a node that is granted now may begin its reboot. None: for ever.
    #[must_use]
    pub fn not_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Always
            | Self::Open {
                by: Closing::RunDone, ..
            } => None,
            Self::Open { closes, .. } => Some(*closes),
            Self::Closed { .. } => Some(now),
        }
    }

    /// When time alone makes it another.
    pub(crate) fn changes(&self) -> impl Iterator<Item = DateTime<Utc>> {
        let (first, second) = match self {
            Self::Always
            | Self::Open {
                by: Closing::RunDone, ..
            } => (None, None),
            Self::Open { closes, .. } => (Some(*closes), None),
            Self::Closed { next, again, .. } => (next.as_ref().map(|next| next.at), *again),
        };
        first.into_iter().chain(second)
    }

    /// The exclusion that has closed, or closes, the window.
    #[must_use]
    pub fn exclusion(&self) -> Option<&str> {
        match self {
            Self::Open {
                by: Closing::Exclusion(name),
                ..
            } => Some(name),
            Self::Closed { exclusion, .. } => exclusion.as_deref(),
            Self::Always | Self::Open { .. } => None,
        }
    }
}

impl Window {
    fn end_if_open(&self, at: DateTime<Utc>, since: Option<DateTime<Utc>>) -> Option<End> {
        match &self.form {
            Form::Once { start, end } => (*start <= at && at < *end).then_some(End::At(*end)),
            Form::Recurring { schedule, duration } => {
                // The last start up to now is the one that closes last.
                let end = instant(schedule.last(at.timestamp())?)? + *duration;
                (at < end).then_some(End::At(end))
            }
            Form::Named(schedule) => {
                let now = at.timestamp();
                schedule.names(now).then(|| {
                    let end = schedule.unnamed_after(now).and_then(instant);
                    end.map_or(End::Never, End::At)
                })
            }
            Form::UntilDone(schedule) => {
                let start = instant(schedule.last(at.timestamp())?)?;
                since.is_some_and(|since| since <= start).then_some(End::RunDone)
            }
        }
    }

    fn opens_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.form {
            Form::Once { start, .. } => (*start > at).then_some(*start),
            Form::Recurring { schedule, .. } | Form::Named(schedule) | Form::UntilDone(schedule) => {
                instant(schedule.next(at.timestamp())?)
            }
        }
    }
}

fn instant(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}
