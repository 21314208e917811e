//! What people do about an install, a plan or a node, what the newest version is, and what is not waited for.

use api::{
    ledger::{Grant, GrantPhase, PlanEntry},
    plan::LATEST,
    verdict::Verdict,
};
use chrono::{DateTime, Utc};
use planner::{
    decisions::{Action, Decisions},
    world::{PlanFacts, World},
};

use crate::rules::{
    Windows, given_up, hosts_granted, is_gated, is_left_out, is_older, on_target, outlasted, owned, recorded,
    selects,
};

/// Counts what is to be seen in one answer.
pub fn found(
    count: &mut impl FnMut(&'static str, bool),
    now: DateTime<Utc>,
    world: &World,
    decisions: &Decisions,
) {
    let Some(before) = &world.ledger else { return };
    let after = decisions.ledger.as_ref().map_or(before, |change| &change.spec);
    let plan_of = |grant: &Grant| world.plans.iter().find(|plan| plan.uid == grant.plan);
    let node_of = |uid: &String| world.nodes.iter().find(|node| node.uid == *uid);
    let made = || {
        let made = after.grants.iter();
        made.filter(|(uid, _)| !before.grants.contains_key(*uid))
    };
    let ends = || {
        after.grants.iter().filter_map(|(uid, grant)| {
            let begun = before.grants.get(uid).filter(|before| before.ending.is_none())?;
            Some((node_of(uid)?, plan_of(grant), begun, grant.ending.as_ref()?))
        })
    };
    let entries = || {
        world.plans.iter().filter_map(|plan| {
            let after = after.plans.get(&plan.uid)?;
            Some((plan, before.plans.get(&plan.uid), after))
        })
    };
    let same_run = || {
        entries().filter_map(|(plan, before, after)| {
            let before = before.filter(|before| before.run == after.run)?;
            Some((plan, before, after))
        })
    };
    let says = |is: fn(&Verdict) -> bool| decisions.verdicts.iter().any(|found| is(&found.verdict));
    let told = |is: &dyn Fn(&api::shadow::BottlerocketShadowSpec) -> bool| {
        let mut actions = decisions.actions.iter();
        actions.any(|action| matches!(action, Action::SetShadow { spec, .. } if is(spec)))
    };

    let withdrawn = |begun: &Grant| matches!(begun.phase, GrantPhase::Granted | GrantPhase::Drained);
    count(
        "a stopped install takes grants back",
        after.stop && ends().any(|(.., begun, _)| withdrawn(begun)),
    );
    count(
        "nodes wait for the install",
        says(|v| matches!(v, Verdict::Stopped)),
    );
    let of_install = |v: &Verdict| matches!(v, Verdict::BudgetSpent { limit, .. } if limit == "install");
    count("the install's limit is spent", says(of_install));
    count(
        "the install's limit is taken over",
        before.max_unavailable != after.max_unavailable,
    );
    count(
        "nodes are granted within the install's limit",
        after.max_unavailable.is_some() && made().next().is_some(),
    );

    let starts = || {
        same_run().flat_map(|(plan, before, after)| {
            let waves = before.open_wave as usize..after.open_wave as usize;
            waves.map(move |wave| (plan, after, &plan.spec.waves[wave]))
        })
    };
    let manual = |wave: &api::plan::Wave| wave.approval == api::plan::Approval::Manual;
    count(
        "waves start once they are approved",
        starts().any(|(.., wave)| manual(wave)),
    );
    count(
        "waves are approved",
        same_run().any(|(_, before, after)| after.actions.approved.len() > before.actions.approved.len()),
    );
    let open_is_gated = |(plan, _, after): (&PlanFacts, Option<&PlanEntry>, &PlanEntry)| {
        let wave = plan.spec.waves.get(after.open_wave as usize);
        wave.is_some_and(|wave| is_gated(wave, after))
    };
    count("waves are to be approved", entries().any(open_is_gated));
    count(
        "nodes wait for an approval",
        says(|v| matches!(v, Verdict::AwaitingApproval { .. })),
    );
    count(
        "halts are lifted",
        same_run().any(|(_, before, after)| before.halted && !after.halted),
    );
    count(
        "runs are told to run now",
        same_run().any(|(_, before, after)| before.actions.run_now != after.actions.run_now),
    );
    let own_window = |plan: &PlanFacts| Windows::of(plan, &Default::default()).is_open(now);
    count(
        "nodes are granted outside windows that are ignored",
        made().any(|(_, grant)| plan_of(grant).is_some_and(|plan| !own_window(plan))),
    );

    count(
        "nodes that were taken out go back",
        ends().any(|(node, .., begun, _)| node.opt_out.is_some() && withdrawn(begun)),
    );
    count(
        "nodes that were taken out wait",
        says(|v| matches!(v, Verdict::OptedOut { .. })),
    );
    count(
        "nodes are granted the way down",
        made().any(|(_, grant)| is_older(&grant.to, &grant.from)),
    );
    count(
        "nodes are told that they may go down",
        told(&|spec| spec.downgrade == Some(true)),
    );
    let forbidden = |plan: Option<&PlanFacts>| plan.is_some_and(|plan| !plan.spec.allow_downgrade);
    count(
        "ways down are taken back",
        ends().any(|(_, plan, begun, _)| is_older(&begun.to, &begun.from) && forbidden(plan)),
    );

    count(
        "the newest version is chosen",
        same_run().any(|(_, before, after)| before.targets.len() < after.targets.len()),
    );
    count(
        "kinds of nodes have versions of their own",
        entries().any(|(.., after)| {
            let mut targets = after.targets.iter();
            targets.any(|target| target.version != after.targets[0].version)
        }),
    );
    let latest = |plan: &PlanFacts| plan.spec.target_version == LATEST;
    count(
        "nodes are granted the newest version",
        made().any(|(_, grant)| plan_of(grant).is_some_and(latest)),
    );
    count(
        "another run follows",
        entries().any(|(plan, before, after)| {
            latest(plan)
                && before.is_some_and(|before| (&before.target, &before.run) != (&after.target, &after.run))
                && before.is_some_and(|before| before.target == after.target)
        }),
    );
    count(
        "versions are too young",
        says(|v| matches!(v, Verdict::ReleaseTooYoung { .. })),
    );
    count(
        "nothing is on offer",
        says(|v| matches!(v, Verdict::NothingOffered { .. })),
    );
    count(
        "nodes cannot have their version",
        says(|v| matches!(v, Verdict::VersionNotOffered { .. } | Verdict::Unsupported { .. })),
    );

    let left_behind = |(plan, entry, wave): (&PlanFacts, &PlanEntry, &api::plan::Wave)| {
        let nodes = owned(world, before, plan);
        let mut of_wave = nodes
            .iter()
            .filter(|node| match recorded(node, after, &entry.run) {
                Some(name) => *name == wave.name,
                None => {
                    let selector = wave.node_selector.as_ref();
                    selector.is_some_and(|selector| selects(selector, &node.labels))
                }
            });
        of_wave.any(|node| {
            let over = on_target(node, plan, entry) || given_up(node, plan, entry);
            !over && !is_left_out(node, plan, entry)
        })
    };
    count("waves do not wait for ever", starts().any(left_behind));
    count(
        "plans are held",
        entries().any(|(.., after)| after.held_since.is_some()),
    );
    count(
        "windows are outlasted",
        ends().any(|(.., ending)| ending.outlasted && ending.failure.is_none()),
    );
    count(
        "windows are outlasted again",
        ends().any(|(.., ending)| ending.outlasted && ending.failure.is_some()),
    );
    count(
        "who has outlasted a window is granted",
        made().any(|(uid, grant)| node_of(uid).is_some_and(|node| outlasted(node, &grant.run))),
    );
    count(
        "who has outlasted a window is told so",
        told(&|spec| spec.outlasted == Some(true)),
    );
    let waits_for_another = |found: &planner::decisions::NodeVerdict| {
        let node = world.nodes.iter().find(|node| node.name == found.node);
        let of_hosts =
            matches!(&found.verdict, Verdict::BudgetSpent { limit, .. } if limit == "operator's own nodes");
        let others = after.grants.values().filter(|grant| {
            grant.hosts_operator && plan_of(grant).is_some_and(|plan| plan.name != *found.plan)
        });
        of_hosts && node.is_some_and(|node| hosts_granted(world, after, &node.uid) > 0) && others.count() > 0
    };
    count(
        "own nodes wait for those of other plans",
        decisions.verdicts.iter().any(waits_for_another),
    );
    let newly_complete = |new: &planner::decisions::PlanStatus| {
        let plan = world.plans.iter().find(|plan| plan.name == new.plan);
        let was = plan.and_then(|plan| plan.status.run.as_ref());
        let is = new.status.run.as_ref();
        is.is_some_and(|is| is.completed_at.is_some() && was != Some(is))
    };
    count(
        "runs become complete",
        decisions.statuses.iter().any(newly_complete),
    );
}
