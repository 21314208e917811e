//! Explores the configurations that are named, or all of them, and prints a table of them.
//!
//! `MODEL_MOST` ends a search at so many states, which then counts as wrong; `MODEL_PROGRESS` tells of every fifth level.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::{process::ExitCode, time::Instant};

use model::{
    configurations,
    explore::{self, Report},
    model::Model,
};

fn main() -> anyhow::Result<ExitCode> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let all = configurations::all();
    if let Some(unknown) = names
        .iter()
        .find(|name| !all.iter().any(|config| config.name == **name))
    {
        let known: Vec<_> = all.iter().map(|config| config.name).collect();
        anyhow::bail!("no configuration {unknown:?}; there are {}", known.join(", "));
    }
    let most = std::env::var("MODEL_MOST")
        .ok()
        .and_then(|most| most.parse().ok())
        .unwrap_or(20_000_000);
    let begun = Instant::now();
    let (mut wrong, mut states) = (0, 0);
    println!("{}", Report::HEAD);
    for config in all {
        if !names.is_empty() && !names.iter().any(|name| name == config.name) {
            continue;
        }
        let report = explored(config, most)?;
        println!("{report}");
        states += report.states;
        if let Some(found) = report.wrong {
            wrong += 1;
            for line in found.way {
                println!("    {line}");
            }
            println!("  WRONG: {}", found.promise);
        }
    }
    let memory = most_memory().map_or_else(String::new, |mib| format!(", at most {mib} MiB at once"));
    let took = begun.elapsed().as_secs_f64();
    println!("{states} states in {took:.0} s{memory}; {wrong} configurations with something wrong");
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn explored(config: model::config::Config, most: usize) -> anyhow::Result<Report> {
    let model = Model::new(config, true)?;
    let begun = Instant::now();
    let loud = std::env::var_os("MODEL_PROGRESS").is_some();
    explore::explore(&model, most, |depth, states| {
        if loud && depth % 5 == 0 {
            let seconds = begun.elapsed().as_secs_f64();
            println!(
                "  depth {depth}: {states} states, {seconds:.1} s, {}",
                model.sizes()
            );
        }
    })
}

/// The most memory that this process has had, where the system says so.
fn most_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}
