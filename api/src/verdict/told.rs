//! The stable word for each verdict, and how people hear of it.

use super::Verdict;

/// How people hear of a reason that is new in a plan's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By an Event of its own.
    Event,
    /// By an Event that warns: a person should see to it.
    Warning,
    /// By none of its own: it comes and goes as the rollout goes on, or the plan's phase or what became of the node has an Event
    /// already; that a node belongs to another plan is told by that one's Events and this one's message.
    Otherwise,
}

/// One row for each verdict: one that has none does not compile.
macro_rules! told {
    ($($verdict:ident => $told:ident,)*) => {
        impl Verdict {
            /// The stable word for the verdict: metric label, reason in the status, and reason of the Event when it is new there.
            #[must_use]
            pub const fn reason(&self) -> &'static str {
                match self {
                    $(Self::$verdict { .. } => stringify!($verdict),)*
                }
            }
        }

        /// Every reason.
        #[cfg(test)]
        const ALL: &[&str] = &[$(stringify!($verdict),)*];

        impl Told {
            /// How people hear of what has this word. None: no verdict of this version has it.
            #[must_use]
            pub fn of(reason: &str) -> Option<Self> {
                match reason {
                    $(stringify!($verdict) => Some(Self::$told),)*
                    _ => None,
                }
            }
        }
    };
}

told! {
    OtherPlan => Otherwise,
    Failed => Otherwise,
    UpToDate => Otherwise,
    NewerThanTarget => Event,
    OptedOut => Event,
    VersionNotOffered => Otherwise,
    Unsupported => Otherwise,
    InvalidPlan => Otherwise,
    Deleting => Otherwise,
    Paused => Otherwise,
    Stopped => Otherwise,
    Halted => Otherwise,
    NotReady => Warning,
    AgentSilent => Warning,
    VersionDisputed => Warning,
    AgentOutdated => Warning,
    NothingOffered => Warning,
    ReleaseTooYoung => Event,
    Resetting => Otherwise,
    CordonedByOther => Warning,
    Backoff => Otherwise,
    WindowTooShort => Warning,
    ClockSkewed => Warning,
    WaveNotReached => Otherwise,
    Soaking => Otherwise,
    AwaitingApproval => Event,
    OutsideWindow => Event,
    Excluded => Event,
    NoWindowFound => Warning,
    WontFitInWindow => Event,
    BudgetSpent => Otherwise,
    Staging => Otherwise,
    DomainBusy => Otherwise,
    DrainBlocked => Warning,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page for people, and what the table above says of each.
    #[test]
    fn docs_status_has_every_reason_with_its_event() {
        let page = include_str!("../../../docs/status.md");
        for reason in ALL {
            let event = match Told::of(reason) {
                Some(Told::Event) => "yes",
                Some(Told::Warning) => "W",
                _ => "–",
            };
            assert!(
                page.contains(&format!("\n| `{reason}` | {event} |")),
                "{reason} {event}"
            );
        }
    }

    #[test]
    fn what_a_person_should_see_to_warns_and_what_has_an_event_already_is_not_told_twice() {
        assert_eq!(Told::of(Verdict::CordonedByOther.reason()), Some(Told::Warning));
        assert_eq!(Told::of(Verdict::Paused.reason()), Some(Told::Otherwise));
        assert_eq!(Told::of(Verdict::UpToDate.reason()), Some(Told::Otherwise));
        assert_eq!(Told::of("uptodate"), None);
    }
}
