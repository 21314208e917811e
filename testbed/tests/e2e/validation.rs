//! Bad plans that the Kubernetes API refuses by itself: its message names the field, the value and what would be right.

use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use testbed::lab::Bare;

use crate::support::{assert_says, raw_plan};

/// What the Kubernetes API says to a plan with this spec; none where it takes it.
async fn refusal(client: &Client, spec: &Value) -> Option<String> {
    // Without types of ours: what is sent is what stands here.
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<api::UpdatePlan>(&()));
    let object: DynamicObject = serde_json::from_value(raw_plan("bad", spec)).unwrap();
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match api.create(&params, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message),
        Err(error) => panic!("{error}"),
    }
}

/// A good spec with other fields.
fn spec(changes: &Value) -> Value {
    let mut spec = json!({"targetVersion": "1.21.0", "nodeSelector": {}});
    for (field, value) in changes.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

/// A spec with one maintenance window.
fn with_window(window: &Value) -> Value {
    json!({"maintenanceWindows": [window]})
}

/// A spec with one recurring window, of two hours a day but for what is given.
pub fn with_schedule(changes: &Value) -> Value {
    let mut window = json!({"name": "w", "schedule": "0 2 * * *", "duration": "2h"});
    for (field, value) in changes.as_object().unwrap() {
        window[field] = value.clone();
    }
    with_window(&window)
}

async fn assert_refused(client: &Client, cases: &[(Value, &[&str])]) {
    for (changes, words) in cases {
        let Some(message) = refusal(client, &spec(changes)).await else {
            panic!("accepted: {changes}")
        };
        for word in *words {
            assert!(
                message.contains(word),
                "{changes}: {word:?} is not in:\n{message}"
            );
        }
    }
}

const VERSION: &str = "is not a version: give it in full and without a leading v, such as 1.21.0";
const NUMBER: &str = "must be a number of nodes from 1, or a percentage from 1% to 100%";
const DURATION: &str =
    "must be a duration of hours, minutes and seconds such as 1h30m, 15m or 90s, at most 10000h";
const FIVE_FIELDS: &str = "must have five fields (minute hour day-of-month month day-of-week)";
const ZONE: &str = "timeZone must be an IANA time zone name such as Europe/Berlin or UTC";
const EITHER_FORM: &str = "a window has either schedule and duration, or start and end";
const THE_REST: &str =
    "waves must end with one that takes the rest: remove size and nodeSelector from the last wave";

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_api_refuses_what_a_schema_can_say() {
    let bare = Bare::start().await.unwrap();
    let client = bare.plane.client().await.unwrap();
    assert_eq!(refusal(&client, &spec(&json!({}))).await, None);
    for text in [
        "v1.21.0",
        "Latest",
        "1.21",
        "1.21.0.1",
        "01.21.0",
        "1.21.0-",
        "99999999999.0.0",
    ] {
        let value = format!("spec.targetVersion: Invalid value: \"{text}\"");
        assert_refused(&client, &[(json!({"targetVersion": text}), &[&value, VERSION])]).await;
    }
    newest(&client).await;
    numbers_of_nodes(&client).await;
    durations(&client).await;
    windows(&client).await;
    waves(&client).await;
    selectors(&client).await;
    types(&client).await;
    unknown_fields(&bare).await;
}

/// Of a plan and of a wave.
async fn selectors(client: &Client) {
    let expression = |operator: &str, values: &Value| {
        let expressions = json!([{"key": "a", "operator": "Exists"}, {"key": "pool", "operator": operator, "values": values}]);
        let selector = json!({"matchExpressions": expressions});
        let waves = json!([{"name": "canary", "nodeSelector": selector}, {"name": "rest"}]);
        [
            ("spec.nodeSelector", json!({"nodeSelector": selector})),
            ("spec.waves[0].nodeSelector", json!({"waves": waves})),
        ]
    };
    let (none, one) = (json!([]), json!(["bad"]));
    for (operator, values) in [
        ("In", &one),
        ("NotIn", &one),
        ("Exists", &none),
        ("DoesNotExist", &none),
    ] {
        for (_, changes) in expression(operator, values) {
            assert_eq!(refusal(client, &spec(&changes)).await, None, "{changes}");
        }
    }
    for (operator, values, field, words) in [
        (
            "Is",
            &one,
            "operator",
            "Unsupported value: \"Is\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\"",
        ),
        ("in", &one, "operator", "Unsupported value: \"in\""),
        ("In", &none, "values", "In needs at least one value"),
        ("NotIn", &none, "values", "NotIn needs at least one value"),
        ("Exists", &one, "values", "Exists takes no values"),
        ("DoesNotExist", &one, "values", "DoesNotExist takes no values"),
    ] {
        for (path, changes) in expression(operator, values) {
            let field = format!("{path}.matchExpressions[1].{field}: ");
            assert_refused(client, &[(changes, &[&field, words])]).await;
        }
    }
    for (one, words) in [
        (
            json!({"key": "pool", "operator": "In"}),
            [".values: ", "In needs at least one value"],
        ),
        (
            json!({"key": "pool ", "operator": "NotIn", "values": ["a"]}),
            [".key: Invalid value: \"pool \"", "the name of a label"],
        ),
        (
            json!({"key": "pool", "operator": "NotIn", "values": ["a", "b c"]}),
            [".values[1]: Invalid value: \"b c\"", "should match"],
        ),
    ] {
        let selector = json!({"matchExpressions": [one]});
        let field = format!("spec.nodeSelector.matchExpressions[0]{}", words[0]);
        assert_refused(
            client,
            &[(json!({"nodeSelector": selector}), &[&field, words[1]])],
        )
        .await;
    }
    let one =
        json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["", "eu-central-1a"]});
    let changes = json!({"nodeSelector": {"matchExpressions": [one]}});
    assert_eq!(refusal(client, &spec(&changes)).await, None);
}

async fn newest(client: &Client) {
    let latest = |age: &str| json!({"targetVersion": "latest", "minReleaseAge": age});
    for age in ["0s", "72h", "8760h"] {
        assert_eq!(refusal(client, &spec(&latest(age))).await, None, "{age}");
    }
    assert_refused(
        client,
        &[
            (
                json!({"minReleaseAge": "72h"}),
                &["spec.minReleaseAge", "minReleaseAge is for targetVersion: latest"],
            ),
            (
                json!({"targetVersion": "latest", "allowDowngrade": true}),
                &[
                    "spec.allowDowngrade",
                    "allowDowngrade is for an exact targetVersion",
                ],
            ),
            (latest("8761h"), &["spec.minReleaseAge", "8760h"]),
            (latest("3d"), &["spec.minReleaseAge", DURATION]),
            (
                json!({"allowDowngrade": "yes"}),
                &["spec.allowDowngrade", "must be of type boolean"],
            ),
        ],
    )
    .await;
}

async fn numbers_of_nodes(client: &Client) {
    for bad in [
        json!(0),
        json!(-1),
        json!("0%"),
        json!("101%"),
        json!("1000%"),
        json!("10"),
        json!("ten"),
        json!(""),
    ] {
        let value = format!("Invalid value: {bad}");
        let wave = |field: &str| json!({"waves": [{"name": "canary", field: bad}, {"name": "rest"}]});
        assert_refused(
            client,
            &[
                (
                    json!({"maxUnavailable": bad}),
                    &["spec.maxUnavailable", &value, NUMBER],
                ),
                (
                    json!({"failurePolicy": {"threshold": bad}}),
                    &["spec.failurePolicy.threshold", &value, NUMBER],
                ),
                (wave("size"), &["spec.waves[0].size", &value, NUMBER]),
                (
                    wave("maxUnavailable"),
                    &["spec.waves[0].maxUnavailable", &value, NUMBER],
                ),
            ],
        )
        .await;
    }
    for good in [json!(1), json!("1%"), json!("100%"), json!(1_000_000)] {
        assert_eq!(
            refusal(client, &spec(&json!({"maxUnavailable": good}))).await,
            None,
            "{good}"
        );
    }
    assert_refused(
        client,
        &[
            (
                json!({"failurePolicy": {"retries": -1}}),
                &["spec.failurePolicy.retries", "greater than or equal to 0"],
            ),
            (
                json!({"failurePolicy": {"retries": 11}}),
                &["spec.failurePolicy.retries", "less than or equal to 10"],
            ),
        ],
    )
    .await;
}

async fn durations(client: &Client) {
    for bad in [
        "1d",
        "-5m",
        "99999999h",
        "10001h",
        "2h 30m",
        "5",
        "h",
        "forever",
        "",
    ] {
        let value = format!("Invalid value: \"{bad}\"");
        assert_refused(
            client,
            &[
                (
                    json!({"expectedNodeDuration": bad}),
                    &["spec.expectedNodeDuration", &value, DURATION],
                ),
                (
                    json!({"drain": {"timeout": bad}}),
                    &["spec.drain.timeout", &value, DURATION],
                ),
                (
                    json!({"waves": [{"name": "rest", "soak": bad}]}),
                    &["spec.waves[0].soak", &value, DURATION],
                ),
                (
                    with_schedule(&json!({"duration": bad})),
                    &["spec.maintenanceWindows[0].duration", &value, DURATION],
                ),
            ],
        )
        .await;
    }
    assert_refused(
        client,
        &[
            (
                json!({"expectedNodeDuration": "0s"}),
                &["\"0s\": expectedNodeDuration must be from 1s to 24h"],
            ),
            (
                json!({"drain": {"timeout": "25h"}}),
                &["\"25h\": drain.timeout must be from 1s to 24h"],
            ),
            (
                json!({"timeouts": {"stage": "0s"}}),
                &["\"0s\": timeouts.stage must be from 1s to 24h"],
            ),
            (
                json!({"timeouts": {"reboot": "25h"}}),
                &["\"25h\": timeouts.reboot must be from 1s to 24h"],
            ),
            (
                json!({"monitoring": {"timeout": "999ms"}}),
                &["\"999ms\": monitoring.timeout must be from 1s to 24h"],
            ),
            (
                json!({"waves": [{"name": "rest", "soak": "721h"}]}),
                &["\"721h\": soak must be from 0s to 720h"],
            ),
            (
                with_schedule(&json!({"duration": "0s"})),
                &["\"0s\": duration must be from 1s to 8760h"],
            ),
            (
                json!({"monitoring": {"minReady": "20m"}}),
                &[
                    "spec.monitoring.minReady",
                    "minReady 20m must be at most timeout, which is 15m",
                ],
            ),
        ],
    )
    .await;
}

async fn windows(client: &Client) {
    let one_off = |start: &str, end: &str| with_window(&json!({"name": "w", "start": start, "end": end}));
    assert_refused(
        client,
        &[
            (
                with_schedule(&json!({"timeZone": "Europe/Berlinn"})),
                &["maintenanceWindows[0].timeZone", "Europe/Berlinn", ZONE],
            ),
            (
                with_schedule(&json!({"timeZone": "CEST"})),
                &["maintenanceWindows[0].timeZone", "CEST", ZONE],
            ),
            (
                with_schedule(&json!({"timeZone": "+01:00"})),
                &["maintenanceWindows[0].timeZone", "+01:00", ZONE],
            ),
            (
                with_schedule(&json!({"timeZone": "Local"})),
                &["maintenanceWindows[0].timeZone", "Local", ZONE],
            ),
            (
                with_schedule(&json!({"schedule": "0 0 2 * * * 2026 x"})),
                &[
                    "maintenanceWindows[0].schedule",
                    "0 0 2 * * * 2026 x",
                    FIVE_FIELDS,
                    "or six or seven as for Brupop (seconds first)",
                ],
            ),
            (
                with_schedule(&json!({"schedule": "0 2 * *"})),
                &["maintenanceWindows[0].schedule", "0 2 * *", FIVE_FIELDS],
            ),
            (
                with_schedule(&json!({"schedule": "@often"})),
                &[
                    "maintenanceWindows[0].schedule",
                    "@often",
                    "or be @hourly, @daily",
                ],
            ),
            (
                one_off("2026-11-27T00:00:00Z", "2026-11-26T23:00:00Z"),
                &["maintenanceWindows[0].end", "end must be after start"],
            ),
            (
                one_off("2026-11-27T00:00:00Z", "2026-11-27T00:00:00Z"),
                &["maintenanceWindows[0].end", "end must be after start"],
            ),
            (
                one_off("2026-11-27T00:00:00Z", "2026-11-27T01:00:00+02:00"),
                &["end must be after start"],
            ),
            (
                one_off("2026-11-27", "2026-11-28"),
                &["maintenanceWindows[0].start", "\"2026-11-27\"", "date-time"],
            ),
            (
                with_schedule(&json!({"start": "2026-11-27T00:00:00Z", "end": "2026-11-28T00:00:00Z"})),
                &["maintenanceWindows[0]", EITHER_FORM],
            ),
            (
                with_window(&json!({"name": "w"})),
                &["maintenanceWindows[0]", EITHER_FORM],
            ),
            (
                with_window(&json!({"name": "w", "schedule": "0 2 * * *"})),
                &[
                    "maintenanceWindows[0]",
                    "a schedule of five fields, or such as @daily, needs a duration",
                ],
            ),
            (
                json!({"exclusions": [{"name": "x", "schedule": "@daily"}]}),
                &["exclusions[0]", "a schedule of five fields, or such as @daily, needs a duration"],
            ),
            (
                with_window(
                    &json!({"name": "w", "start": "2026-11-27T00:00:00Z", "end": "2026-11-28T00:00:00Z", "duration": "1h"}),
                ),
                &[
                    "maintenanceWindows[0]",
                    "duration is for schedule; start and end say how long the window is",
                ],
            ),
            (
                json!({"onWindowEnd": "Stop"}),
                &["spec.onWindowEnd", "\"Stop\"", "\"Withdraw\", \"Finish\""],
            ),
            (
                with_window(&json!({"name": "w", "start": "2026-11-27T00:00:00Z"})),
                &[
                    "maintenanceWindows[0]",
                    "start and end go together: give both, or neither",
                ],
            ),
            (
                with_window(
                    &json!({"name": "w", "start": "2026-11-27T00:00:00Z", "end": "2026-11-28T00:00:00Z",
                "timeZone": "Europe/Berlin"}),
                ),
                &[
                    "maintenanceWindows[0]",
                    "timeZone is for schedule; start and end carry their own offset",
                ],
            ),
            (
                json!({"maintenanceWindows": [{"name": "w", "schedule": "@daily", "duration": "1h"},
                {"name": "w", "schedule": "@weekly", "duration": "1h"}]}),
                &[
                    "spec.maintenanceWindows",
                    "maintenanceWindows must have different names",
                ],
            ),
            (
                json!({"exclusions": [{"name": "x", "schedule": "@daily", "duration": "1h"},
                {"name": "x", "schedule": "@weekly", "duration": "1h"}]}),
                &["spec.exclusions", "exclusions must have different names"],
            ),
        ],
    )
    .await;
    for good in [
        json!({"name": "x", "schedule": "* * 22 * * SAT *"}),
        json!({"name": "x", "schedule": "0 0 22 * * SAT", "duration": "2h"}),
        json!({"name": "x", "schedule": "0 22 * * SAT#2", "duration": "2h", "timeZone": "Europe/Berlin"}),
        json!({"name": "x", "start": "2026-11-27T00:00:00Z", "end": "2026-11-28T00:00:00+01:00"}),
    ] {
        let spec =
            spec(&json!({"maintenanceWindows": [good], "exclusions": [good], "onWindowEnd": "Finish"}));
        assert_eq!(refusal(client, &spec).await, None, "{good}");
    }
}

async fn waves(client: &Client) {
    let waves = |waves: Value| json!({"waves": waves});
    let selector = json!({"matchLabels": {"tier": "dev"}});
    let many: Vec<Value> = (0..21)
        .map(|i| json!({"name": format!("w{i}"), "size": 1}))
        .collect();
    assert_refused(
        client,
        &[
            (
                waves(json!([{"name": "canary", "size": 1}])),
                &["spec.waves", THE_REST],
            ),
            (
                waves(json!([{"name": "canary", "size": 1}, {"name": "dev", "nodeSelector": selector}])),
                &["spec.waves", THE_REST],
            ),
            (
                waves(json!([{"name": "all"}, {"name": "rest"}])),
                &[
                    "spec.waves",
                    "waves before the last must have a size or a nodeSelector, or they would take every node",
                ],
            ),
            (
                waves(json!([{"name": "a", "size": 1}, {"name": "a"}])),
                &["spec.waves", "waves must have different names"],
            ),
            (
                waves(json!([{"name": "The Rest"}])),
                &[
                    "spec.waves[0].name",
                    "\"The Rest\"",
                    "must be lower case letters, digits and hyphens, such as canary",
                ],
            ),
            (waves(json!(many)), &["spec.waves", "must have at most 20 items"]),
        ],
    )
    .await;
}

async fn types(client: &Client) {
    assert_refused(
        client,
        &[
            (
                json!({"targetVersion": 1.21}),
                &["spec.targetVersion", "must be of type string"],
            ),
            (
                json!({"targetVersion": null}),
                &["spec.targetVersion: Required value"],
            ),
            (
                json!({"nodeSelector": null}),
                &["spec.nodeSelector: Required value"],
            ),
            (
                json!({"paused": "yes"}),
                &["spec.paused", "must be of type boolean"],
            ),
            (
                json!({"waves": "canary"}),
                &["spec.waves", "must be of type array"],
            ),
            (
                json!({"maxUnavailable": 1.5}),
                &["spec.maxUnavailable", "must be of type integer,string"],
            ),
            (
                with_schedule(&json!({"duration": 7200})),
                &["maintenanceWindows[0].duration", "must be of type string"],
            ),
        ],
    )
    .await;
}

/// A field that does not exist, or not yet, is no field that is ignored.
async fn unknown_fields(bare: &Bare) {
    for field in ["maintenanceWindow", "priorityClass", "minReleaseAges"] {
        let yaml = raw_plan("bad", &spec(&json!({field: "x"}))).to_string();
        let answer = bare.plane.try_apply(&["--dry-run=server"], &yaml).await.unwrap();
        let said = String::from_utf8_lossy(&answer.stderr);
        assert!(!answer.status.success(), "{field} was accepted");
        assert_says(&said, &[&format!("unknown field \"spec.{field}\"")]);
    }
}
