//! A hundred agents whose server goes away: all streams are back within a minute, nobody is overrun by them, and a
//! rollout under way loses no step and makes none twice.
//!
//! The agents keep to the delays of a real install. Requests are counted by the apiserver itself, token reviews by
//! kube-apiserver's audit log. `SHOW=1` prints both, second by second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::ledger::GrantPhase;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use testbed::bottlerocket::{Command, CommandStatus};
use testbed::fleet::LatencySpec;
use testbed::lab::Lab;
use testbed::operator::Options;
use testbed::oracle::Expectations;
use testbed::truth::{RebootCause, SimEventKind};
use tokio::time::sleep;

use crate::support::{NEW, lab_with, machines, plan, seconds, show, within};

const AGENTS: usize = 100;
/// All streams are back within so long.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Most streams that are asked for in any second. The agents come back spread over five seconds, a fifth of them in each;
/// where the server is away for longer, those who came in vain come again besides.
const MOST_STREAMS_A_SECOND: usize = AGENTS * 8 / 10;
/// Most requests in any second, reports and permits of ten nodes on their way included.
const MOST_REQUESTS_A_SECOND: usize = MOST_STREAMS_A_SECOND + 40;
/// Most token reviews in any second: one for each stream and each permit.
const MOST_REVIEWS_A_SECOND: usize = MOST_STREAMS_A_SECOND + 20;
/// Between two looks at the apiserver's counters.
const LOOK: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);

/// How the apiserver ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is killed.
    Killed,
    /// It is told to stop, and says goodbye.
    Told,
}

/// The apiserver's own counters, since it was started.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// When it was looked at, since the outage began.
    at: Duration,
    /// Streams that are open.
    open: usize,
    /// Streams that have been asked for.
    streams: usize,
    /// Reports and permits that have been asked for, and shadows.
    others: usize,
    /// Answers that were refusals.
    refused: usize,
}

async fn count(lab: &Lab, began: Instant) -> Option<Count> {
    let text = lab.operator.apiserver_metrics().await.ok()?;
    let mut count = Count {
        at: began.elapsed(),
        ..Count::default()
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ')?;
        let Ok(value) = value.parse::<usize>() else {
            continue;
        };
        if name == "brupop_apiserver_streams" {
            count.open = value;
        } else if name.starts_with("brupop_apiserver_requests_total") {
            if name.contains("/instructions\"") {
                count.streams += value;
            } else {
                count.others += value;
            }
            if !name.contains("status=\"2") {
                count.refused += value;
            }
        }
    }
    Some(count)
}

const fn streams(count: &Count) -> usize {
    count.streams
}

const fn requests(count: &Count) -> usize {
    count.streams + count.others
}

/// What came of one outage.
struct Outage {
    began: DateTime<Utc>,
    counts: Vec<Count>,
    /// When every machine that was up had its stream again.
    back: Duration,
}

impl Outage {
    fn last(&self) -> Count {
        self.counts.last().copied().unwrap_or_default()
    }

    /// Most of what `counted` counts in any second.
    fn most_a_second(&self, counted: fn(&Count) -> usize) -> usize {
        let most = |(at, first): (usize, &Count)| {
            let within = self.counts[at..]
                .iter()
                .take_while(|count| count.at <= first.at + SECOND);
            within.map(counted).max().unwrap_or_default() - counted(first)
        };
        self.counts.iter().enumerate().map(most).max().unwrap_or_default()
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let mut before = Count::default();
        for second in 0..=self.last().at.as_secs() {
            let until = Duration::from_secs(second + 1);
            let Some(count) = self.counts.iter().rfind(|count| count.at < until) else {
                continue;
            };
            text += &format!(
                "second {second:>2}: {:>3} streams asked for, {:>3} other requests, {:>3} streams open\n",
                count.streams - before.streams,
                count.others - before.others,
                count.open,
            );
            before = *count;
        }
        text
    }
}

/// The apiserver ends, and is started again on the same port after `down`. Watches until all streams are back, and some
/// seconds longer.
async fn outage(lab: &mut Lab, end: End, down: Duration) -> Outage {
    let (start, began) = (Instant::now(), Utc::now());
    match end {
        End::Killed => lab.operator.kill_apiserver().await.unwrap(),
        End::Told => {
            let status = lab.operator.apiserver.stop(seconds(10)).await.unwrap();
            assert!(status.success(), "{status}");
        }
    }
    let ended = start.elapsed();
    sleep(down).await;
    let mut counts = vec![Count {
        at: start.elapsed(),
        ..Count::default()
    }];
    lab.operator.start_apiserver().await.unwrap();
    let mut back = None;
    while back.is_none_or(|back| start.elapsed() < back + seconds(3)) {
        if let Some(count) = count(lab, start).await {
            let up = lab.fleet.nodes().iter().filter(|node| node.is_up()).count();
            if back.is_none() && count.open >= up {
                back = Some(count.at);
            }
            counts.push(count);
        }
        assert!(
            back.is_some() || start.elapsed() < BACK_WITHIN,
            "not all streams are back within {BACK_WITHIN:?}: {:?}",
            counts.last()
        );
        sleep(LOOK).await;
    }
    let outage = Outage {
        began,
        counts,
        back: back.unwrap_or_default(),
    };
    show(
        &format!("the apiserver was {end:?}, gone after {ended:?}, and away for {down:?} more"),
        &format!(
            "{}all streams back after {:.1} s; most in a second: {} streams asked for, {} requests in all",
            outage.table(),
            outage.back.as_secs_f64(),
            outage.most_a_second(streams),
            outage.most_a_second(requests),
        ),
    );
    outage
}

/// When the operator's apiserver asked for reviews of tokens.
fn reviews(lab: &Lab) -> Vec<DateTime<Utc>> {
    let log = std::fs::read_to_string(lab.plane.audit_log()).unwrap();
    let events = log.lines().filter(|line| line.contains("tokenreviews"));
    // The last line may be half written.
    let events = events.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let times = events.filter(|event| {
        event["user"]["username"] == "system:serviceaccount:brupop-bottlerocket-aws:brupop-update-apiserver"
    });
    let mut times: Vec<DateTime<Utc>> = times
        .map(|event| {
            event["requestReceivedTimestamp"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    times.sort();
    times
}

/// Most of these times in any second.
fn most_in_a_second(times: &[DateTime<Utc>]) -> usize {
    let second = chrono::TimeDelta::seconds(1);
    let within = |(at, first): (usize, &DateTime<Utc>)| {
        times[at..]
            .iter()
            .take_while(|time| **time < *first + second)
            .count()
    };
    times.iter().enumerate().map(within).max().unwrap_or_default()
}

/// Waits until the agents have asked for nothing for a while: what their start has caused is over.
async fn quiet(lab: &Lab) {
    let mut last = 0;
    let mut since = Instant::now();
    let began = since;
    while since.elapsed() < seconds(2) {
        assert!(began.elapsed() < seconds(30), "the agents do not come to rest");
        sleep(LOOK).await;
        let now = count(lab, began).await.as_ref().map_or(0, requests);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

async fn some_grant(lab: &Lab, phase: GrantPhase) {
    let what = format!("grant in phase {phase}");
    let found = lab.ledger(seconds(30), &what, |ledger| {
        ledger.spec.grants.values().any(|grant| grant.phase == phase)
    });
    Box::pin(found).await.unwrap_or_else(|error| panic!("{error:#}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_come_back_after_their_server_without_overrunning_it() {
    let mut fleet = machines(u32::try_from(AGENTS).unwrap());
    let moment = Duration::from_millis(500);
    fleet.latencies = LatencySpec {
        prepare: moment,
        activate: moment,
        boot: moment,
        ..LatencySpec::default()
    };
    let options = Options {
        production_delays: true,
        ..Options::default()
    };
    let mut lab = lab_with(fleet, &options).await;
    quiet(&lab).await;

    let idle = outage(&mut lab, End::Killed, Duration::ZERO).await;
    let last = idle.last();
    assert_eq!(
        (last.open, last.streams),
        (AGENTS, AGENTS),
        "each agent asks once: {last:?}"
    );
    assert_eq!(
        (last.others, last.refused),
        (0, 0),
        "and for nothing else: {last:?}"
    );

    let spec = json!({"maxUnavailable": 10, "monitoring": {"minReady": "500ms", "timeout": "60s"}});
    lab.apply(&plan("p", &spec)).await.unwrap();
    some_grant(&lab, GrantPhase::Drained).await;
    let killed = outage(&mut lab, End::Killed, seconds(1)).await;
    some_grant(&lab, GrantPhase::Rebooting).await;
    let told = outage(&mut lab, End::Told, Duration::ZERO).await;
    for outage in [&idle, &killed, &told] {
        assert!(
            outage.most_a_second(streams) <= MOST_STREAMS_A_SECOND,
            "{}",
            outage.table()
        );
        assert!(
            outage.most_a_second(requests) <= MOST_REQUESTS_A_SECOND,
            "{}",
            outage.table()
        );
        assert_eq!(outage.last().refused, 0, "{:?}", outage.last());
    }

    let done = within(&lab, "p", seconds(180), "plan that is Complete", |status| {
        status.phase == Some(api::plan::Phase::Complete)
    })
    .await;
    assert_eq!(usize::try_from(done.nodes.updated).unwrap(), AGENTS);
    no_step_was_lost_or_made_twice(&lab);
    let reviews = reviews(&lab);
    for outage in [&idle, &killed, &told] {
        let after = outage.began + outage.last().at;
        let of_it: Vec<_> = reviews
            .iter()
            .filter(|at| (outage.began..after).contains(at))
            .copied()
            .collect();
        let most = most_in_a_second(&of_it);
        show(
            "token reviews",
            &format!("{} in all, most in a second: {most}", of_it.len()),
        );
        assert!(most <= MOST_REVIEWS_A_SECOND, "{most} token reviews in a second");
    }
    let expectations = Expectations {
        asked_again: lab
            .fleet
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .collect(),
        ..Expectations::complete("p")
    };
    lab.finish(&expectations).await.unwrap();
}

/// On every machine: one prepare, one activate, one reboot.
fn no_step_was_lost_or_made_twice(lab: &Lab) {
    for node in lab.fleet.nodes() {
        assert_eq!(node.version(), NEW);
        let mut steps = BTreeMap::from([("prepare", 0), ("activate", 0), ("deactivate", 0), ("reboot", 0)]);
        for event in node.events() {
            let step = match event.kind {
                SimEventKind::CommandEnded {
                    command,
                    outcome: Some(CommandStatus::Success),
                } => match command {
                    Command::Prepare => "prepare",
                    Command::Activate => "activate",
                    Command::Deactivate => "deactivate",
                    Command::Refresh => continue,
                },
                SimEventKind::RebootBegun {
                    cause: RebootCause::Api,
                    ..
                } => "reboot",
                _ => continue,
            };
            *steps.entry(step).or_default() += 1;
        }
        let once = BTreeMap::from([("prepare", 1), ("activate", 1), ("deactivate", 0), ("reboot", 1)]);
        assert_eq!(steps, once, "steps of {}", node.name());
    }
}
