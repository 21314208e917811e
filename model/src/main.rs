//! Explores the configurations that are named, or all.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::process::ExitCode;

use std::time::Instant;

use model::{configurations, explore, model::Model};

fn main() -> anyhow::Result<ExitCode> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let mut wrong = false;
    let most = std::env::var("MODEL_MOST")
        .ok()
        .and_then(|most| most.parse().ok())
        .unwrap_or(20_000_000);
    for config in configurations::all() {
        if !names.is_empty() && !names.iter().any(|name| name == config.name) {
            continue;
        }
        let model = Model::new(config, true)?;
        let begun = Instant::now();
        let loud = std::env::var_os("MODEL_PROGRESS").is_some();
        let report = explore::explore(&model, most, |depth, states| {
            if loud && depth % 5 == 0 {
                println!(
                    "  depth {depth}: {states} states, {:.1} s, {}",
                    begun.elapsed().as_secs_f64(),
                    model.sizes()
                );
            }
        })?;
        println!(
            "{:12} {:>10} states {:>11} steps  depth {:>4}  {:>8} good ends  {:>8} rounds planned  {:>7.1} s",
            report.name,
            report.states,
            report.transitions,
            report.depth,
            report.good,
            report.planned,
            report.took.as_secs_f64()
        );
        if let Some(found) = report.wrong {
            wrong = true;
            for line in found.way {
                println!("    {line}");
            }
            println!("  WRONG: {}", found.promise);
        }
    }
    Ok(if wrong {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
