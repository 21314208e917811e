//! S1 and S9: downloads ahead of a node's turn.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use api::shadow::StageAhead;
use serde_json::json;

use super::story::{NEW, Story};
use crate::bottlerocket::{Call, Command, CommandStatus, UpdateSettings};
use crate::oracle::Promise;
use crate::truth::SimEventKind;

impl Story {
    /// The node is told to download ahead of its turn, and begins.
    fn download(&mut self, node: &str) {
        let until = self.now + chrono::TimeDelta::minutes(30);
        self.edit_shadow(node, |shadow| {
            let version = NEW.into();
            shadow.spec.stage = Some(StageAhead { version, until });
        });
        let settings = UpdateSettings {
            version_lock: NEW.into(),
            ignore_waves: true,
            seed: 0,
        };
        self.happen(node, SimEventKind::SettingsChanged { settings });
        let call = Call::Prepare;
        self.happen(
            node,
            SimEventKind::Called {
                call,
                status: Some(204),
            },
        );
        self.wait(2);
    }

    /// Its download is there.
    fn downloaded(&mut self, node: &str) {
        let outcome = Some(CommandStatus::Success);
        let command = Command::Prepare;
        self.happen(node, SimEventKind::CommandEnded { command, outcome });
    }

    /// Its settings are as they were found.
    fn put_back(&mut self, node: &str) {
        let settings = UpdateSettings::default();
        self.happen(node, SimEventKind::SettingsChanged { settings });
        self.wait(2);
    }
}

fn story() -> Story {
    let mut story = Story::new(&["a", "b"], json!({}));
    story.expect.quiet = false;
    story.expect.complete.clear();
    story.expect.stage_ahead = 1;
    story
}

#[test]
fn one_after_the_other_and_then_granted_is_clean() {
    let mut story = story();
    for node in ["a", "b"] {
        story.download(node);
        story.downloaded(node);
        story.put_back(node);
    }
    story.edit_shadow("a", |shadow| shadow.spec.stage = None);
    story.grant("a");
    story.empty("a");
    story.permit("a");
    story.complete("a");
    story.is_clean();
}

#[test]
fn a_grant_in_the_middle_of_a_download_is_clean_and_what_was_found_before_it_comes_back() {
    let mut story = story();
    story.download("a");
    story.grant("a");
    story.edit_shadow("a", |shadow| shadow.spec.stage = None);
    story.downloaded("a");
    story.empty("a");
    story.permit("a");
    story.complete("a");
    story.is_clean();
}

#[test]
fn s1_more_downloads_at_a_time_than_may_be_are_seen() {
    let mut story = story();
    story.download("a");
    story.download("b");
    for node in ["a", "b"] {
        story.downloaded(node);
        story.put_back(node);
    }
    story.breaks(Promise::S1, "2 download ahead of their turn, and 1 may: a, b");
    story.expect.stage_ahead = 2;
    story.is_clean();
}

#[test]
fn s9_settings_that_are_not_put_back_after_a_download_are_seen() {
    let mut story = story();
    story.download("a");
    story.downloaded("a");
    story.edit_shadow("a", |shadow| shadow.spec.stage = None);
    story.breaks(Promise::S9, "node a did not get back its settings");
}
