//! Bad plans that only the controller can see: `Valid=False` with field, value and remedy. Other plans go on.

use std::collections::BTreeSet;

use api::plan::{Phase, condition};
use serde_json::{Value, json};
use testbed::oracle::Expectations;

use crate::support::{assert_says, assert_untouched, complete, edit, get_ledger, lab, plan, pools, status};
use crate::validation::with_schedule;

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_controller_can_see_is_valid_false_and_other_plans_go_on() {
    let lab = lab(pools(&[("good", 2), ("bad", 1)])).await;
    let cases: &[(&str, Value, &[&str])] = &[
        (
            "no-such-hour",
            with_schedule(&json!({"schedule": "0 25 * * *"})),
            &[
                "spec.maintenanceWindows[0].schedule: \"0 25 * * *\": ",
                "use five fields",
                "such as \"0 2 * * MON-THU\"",
            ],
        ),
        (
            "no-such-day",
            with_schedule(&json!({"schedule": "0 2 * * FUNDAY"})),
            &[
                "spec.maintenanceWindows[0].schedule: \"0 2 * * FUNDAY\": ",
                "use five fields",
            ],
        ),
        (
            "never",
            with_schedule(&json!({"schedule": "0 2 30 2 *"})),
            &[
                "spec.maintenanceWindows[0].schedule: \"0 2 30 2 *\": ",
                "this one never comes",
            ],
        ),
        (
            "no-version",
            json!({"targetVersion": "1.21.0-01"}),
            &[
                "spec.targetVersion: \"1.21.0-01\": ",
                "give a full version without a leading v, such as 1.21.0",
            ],
        ),
    ];
    let bad_nodes = json!({"matchLabels": {"pool": "bad"}});
    let mut yaml = Vec::new();
    for (name, changes, _) in cases {
        let mut spec = json!({"nodeSelector": bad_nodes});
        for (field, value) in changes.as_object().unwrap() {
            spec[field] = value.clone();
        }
        yaml.push(plan(name, &spec));
    }
    let good = json!({"nodeSelector": {"matchLabels": {"pool": "good"}}, "maxUnavailable": "100%"});
    yaml.push(plan("good", &good));
    lab.apply(&yaml.join("\n---\n")).await.unwrap();

    for (name, _, words) in cases {
        let found = status(&lab, name, "plan that is Invalid", |status| {
            status.phase == Some(Phase::Invalid)
        })
        .await;
        let valid = found
            .conditions
            .iter()
            .find(|condition| condition.type_ == condition::VALID)
            .unwrap();
        assert_eq!(
            (valid.status.as_str(), valid.reason.as_str()),
            ("False", "Invalid"),
            "{name}"
        );
        assert_says(&valid.message, words);
        assert_eq!(
            found.message.as_ref(),
            Some(&valid.message),
            "{name}: what is wrong is also the message"
        );
        assert_eq!(found.observed_generation, Some(1));
    }
    complete(&lab, "good").await;
    assert_untouched(&lab, "bad1").await;
    assert_eq!(lab.fleet.node("bad1").unwrap().version(), "1.20.3");
    // Nothing of a plan that was never valid is in the ledger, and once it is mended it goes on like any other.
    let plans = get_ledger(&lab).await.spec.plans;
    let names: BTreeSet<String> = plans.into_values().map(|entry| entry.name).collect();
    assert_eq!(names, BTreeSet::from(["good".to_owned()]));
    for (name, ..) in &cases[1..] {
        lab.plane
            .kubectl_ok(&["delete", "uplan", name, "--wait=false"])
            .await
            .unwrap();
    }
    edit(&lab, cases[0].0, &json!({"maintenanceWindows": null})).await;
    complete(&lab, cases[0].0).await;
    assert_eq!(lab.fleet.node("bad1").unwrap().version(), "1.21.0");
    lab.finish(&Expectations::complete("good")).await.unwrap();
}
