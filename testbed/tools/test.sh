#!/usr/bin/env bash
# Runs every test of the workspace and ends with the sum of what the test runner counted.
set -euo pipefail
cd "$(dirname "$0")/../.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --workspace --lib --bins --tests --no-fail-fast 2>&1 | tee "$log" || status=$?
awk '/^test result:/ { for (i = 1; i < NF; i++) { if ($(i+1) == "passed;") passed += $i; if ($(i+1) == "failed;") failed += $i } }
  END { printf "total: %d passed, %d failed\n", passed, failed }' "$log"
exit "$status"
