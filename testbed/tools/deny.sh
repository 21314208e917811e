#!/usr/bin/env bash
# Licences, bans and sources of every dependency by cargo-deny, built into .tools/ on first use; advisories where
# their database is on this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.20.2
deny=.tools/bin/cargo-deny
if [ "$("$deny" --version 2>/dev/null || true)" != "cargo-deny $version" ]; then
  echo "building cargo-deny $version (some minutes, once)"
  cargo install --quiet --locked --root .tools --no-default-features --version "$version" cargo-deny
fi
"$deny" --log-level error check --hide-inclusion-graph licenses bans sources
if compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-db*" >/dev/null; then
  "$deny" --offline --log-level error check advisories
else
  echo 'advisories: SKIPPED, the advisory database is not on this machine'
fi
