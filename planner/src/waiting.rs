//! Since when a run has waited for a window that is open until it is done.
//!
//! A schedule of single instants says when such a window opens, and not when it closes: it is open for what waits at that
//! instant, until nothing does. So the ledger remembers since when something has waited; what comes to wait later waits for
//! the next instant. While nothing waits, instants come and go without a write.

use api::{ledger::PlanEntry, verdict::Verdict};
use chrono::{DateTime, Utc};

use crate::{
    plan::Planning,
    spec::ValidPlan,
    targets,
    waves::{Member, Place},
};

/// Records whether nodes wait or are on their way, where a window of the plan depends on it. `members` must be after the skipping:
/// who is skipped waits for no window.
pub(crate) fn record(
    planning: &Planning<'_>,
    members: &[Member<'_>],
    valid: &ValidPlan,
    entry: &mut PlanEntry,
) {
    let since = entry.waiting_since.unwrap_or(planning.now);
    let is_not_done = |member| is_not_done(planning.now, member, valid);
    let waits = valid.windows.open_until_done() && members.iter().any(is_not_done);
    entry.waiting_since = waits.then_some(since);
}

/// A node that has not told its version yet may well need no update; one whose version is too young comes to wait once it is old enough.
fn is_not_done(now: DateTime<Utc>, member: &Member<'_>, valid: &ValidPlan) -> bool {
    let status = member
        .node
        .shadow
        .as_ref()
        .and_then(|shadow| shadow.status.as_ref());
    match member.place {
        Place::Granted => true,
        Place::Waiting if member.target.is_none() => {
            let unknown = targets::unknown(now, member.node, valid);
            status.is_some() && !matches!(unknown, Verdict::ReleaseTooYoung { .. })
        }
        Place::Waiting => status.is_some(),
        Place::Updated | Place::Skipped | Place::Failed => false,
    }
}
