//! The build script of the programs: how releases are linked, so that less of them has to be in memory.
#![allow(clippy::print_stdout, reason = "this is how cargo is told")]

use std::{env, process::Command};

/// The first glibc that can start a program whose relocations are packed.
const PACKED_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=../link.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    // Some 44,000 addresses of the controller, most of them of time zones, are set when it starts, by a list that is read
    // whole: 24 bytes for each, or a bit.
    if env::var("HOST") == env::var("TARGET") && glibc() >= Some(PACKED_SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the C library here.
fn glibc() -> Option<(u32, u32)> {
    let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(answer.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
