//! How far the plan is: a bar in a terminal, plain lines where there is none.

use std::io::IsTerminal as _;
use std::time::Instant;

use anyhow::{Context as _, Result};
use api::UpdatePlan;
use api::plan::{Phase, UpdatePlanStatus};
use futures::{StreamExt as _, pin_mut};
use indicatif::{ProgressBar, ProgressStyle};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

/// Follows the plan until it is Complete, Halted or Invalid, and gives that phase.
pub(super) async fn follow(client: &Client, name: &str, began: Instant) -> Result<Phase> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let plans = watcher(Api::<UpdatePlan>::all(client.clone()), config)
        .default_backoff()
        .applied_objects();
    pin_mut!(plans);
    let mut shown = Shown::new(began)?;
    while let Some(plan) = plans.next().await {
        let Some(status) = plan?.status else { continue };
        let Some(phase) = status.phase else { continue };
        shown.show(phase, &status);
        if matches!(phase, Phase::Complete | Phase::Halted | Phase::Invalid) {
            shown.end();
            return Ok(phase);
        }
    }
    anyhow::bail!("the watch of the plan has ended")
}

struct Shown {
    began: Instant,
    bar: Option<ProgressBar>,
    last: String,
}

impl Shown {
    fn new(began: Instant) -> Result<Self> {
        let bar = if std::io::stdout().is_terminal() {
            let style = ProgressStyle::with_template(
                "{elapsed:>4} {prefix:<16} [{bar:24}] {pos}/{len} updated\n{msg}",
            )
            .context("the bar's template")?
            .progress_chars("=> ");
            let bar = ProgressBar::new(1).with_style(style);
            bar.enable_steady_tick(std::time::Duration::from_millis(250));
            Some(bar)
        } else {
            None
        };
        Ok(Self {
            began,
            bar,
            last: String::new(),
        })
    }

    fn show(&mut self, phase: Phase, status: &UpdatePlanStatus) {
        let message = status.message.clone().unwrap_or_default();
        if message == self.last {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_length(status.nodes.matched.into());
            bar.set_position(status.nodes.updated.into());
            bar.set_prefix(format!("{phase:?}"));
            bar.set_message(details(status));
        } else {
            println!(
                "{:>6.1}s  {:<16}  {message}",
                self.began.elapsed().as_secs_f64(),
                format!("{phase:?}")
            );
        }
        self.last = message;
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// The lines below the bar: waves, window, and what each node does.
fn details(status: &UpdatePlanStatus) -> String {
    let mut lines: Vec<String> = status
        .waves
        .iter()
        .map(|wave| {
            format!(
                "     wave {:<10} {:<12} {}/{}",
                wave.name,
                format!("{:?}", wave.phase),
                wave.updated,
                wave.nodes
            )
        })
        .collect();
    lines.extend(status.window.as_ref().map(|window| {
        let state = if window.open {
            window.next.clone()
        } else {
            format!("closed, opens {}", window.next)
        };
        format!("     window {state}")
    }));
    lines.extend(
        status
            .active
            .iter()
            .map(|active| format!("     {:<4} {}", active.node, active.doing)),
    );
    lines.extend(
        status
            .waiting
            .iter()
            .map(|waiting| format!("     {} waiting: {}", waiting.count, waiting.message)),
    );
    lines.join("\n")
}
