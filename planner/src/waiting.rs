//! Since when a run has waited for a window that is open until it is done.
//!
//! A schedule of single instants says when such a window opens, and not when it closes: it is open for what waits at that
//! instant, until nothing does. So the ledger remembers since when something has waited; what comes to wait later waits for
//! the next instant. While nothing waits, instants come and go without a write.

use api::ledger::PlanEntry;

use crate::{
    plan::Planning,
    spec::ValidPlan,
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
    let waits = valid.windows.open_until_done() && members.iter().any(is_not_done);
    entry.waiting_since = waits.then_some(since);
}

/// A node that has not told its version yet may well need no update.
fn is_not_done(member: &Member<'_>) -> bool {
    let status = member
        .node
        .shadow
        .as_ref()
        .and_then(|shadow| shadow.status.as_ref());
    match member.place {
        Place::Granted => true,
        Place::Waiting => status.is_some(),
        Place::Updated | Place::Skipped | Place::Failed => false,
    }
}
