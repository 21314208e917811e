//! Time in ticks, and what of it can matter.
//!
//! Decisions depend on a time only by how it compares with now, as far as some limit, and on now only by which window
//! is open. So the clock stops at the first tick from which the windows do not change any more: from then on it is
//! everything else that ages. And nothing grows older than the longest limit that it is ever compared with.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A tick. Half of a permit's validity, so that a permit may outlast the window, if nobody prevents it.
pub const TICK: TimeDelta = TimeDelta::seconds(15);

/// An agent's clock at tick 0: nothing is older.
const AGENT_START: Duration = Duration::from_secs(1_000_000);

/// The instant of a tick.
#[must_use]
pub fn at(tick: u16) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default() + TICK * i32::from(tick)
}

/// The tick of an instant.
#[must_use]
pub fn tick_of(time: DateTime<Utc>) -> i64 {
    (time - at(0)).num_seconds() / TICK.num_seconds()
}

/// When a window closes that never does.
#[must_use]
pub fn far() -> DateTime<Utc> {
    at(0) + TimeDelta::days(10_000)
}

/// A time that nobody looks at any more.
#[must_use]
pub fn past() -> DateTime<Utc> {
    at(0) - TimeDelta::days(1)
}

/// What an agent's clock shows at a tick. It starts anew with the agent; only differences ever count.
#[must_use]
pub fn elapsed(tick: u16) -> Duration {
    AGENT_START + Duration::from_secs(15) * u32::from(tick)
}

/// From which now a state is told, and where the clock stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Now.
    pub now: u16,
    /// The last tick.
    pub last: u16,
}

impl Frame {
    /// Now, as far as it matters.
    #[must_use]
    pub fn settled_now(self) -> u16 {
        self.now.min(self.last)
    }

    /// A time, as far as it matters up to this age in ticks.
    #[must_use]
    pub fn settle(self, time: DateTime<Utc>, age: u16) -> DateTime<Utc> {
        if time >= far() {
            return time;
        }
        let shift = TICK * i32::from(self.now - self.settled_now());
        (time - shift).max(at(self.settled_now()) - TICK * i32::from(age))
    }

    /// The same by an agent's clock.
    #[must_use]
    pub fn settle_elapsed(self, time: Duration, age: u16) -> Duration {
        let ticks = |n: u16| Duration::from_secs(15) * u32::from(n);
        let shift = ticks(self.now - self.settled_now());
        (time - shift).max(elapsed(self.settled_now()) - ticks(age))
    }
}
