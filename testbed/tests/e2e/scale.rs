//! Many nodes at once.

use std::time::Instant;

use serde_json::json;
use testbed::oracle::Expectations;

use crate::support::{NEW, complete, lab, machines, plan, show, versions};

#[tokio::test(flavor = "multi_thread")]
async fn sixty_nodes_at_once() {
    let lab = lab(machines(60)).await;
    let began = Instant::now();
    lab.apply(&plan("p", &json!({"maxUnavailable": "100%"})))
        .await
        .unwrap();
    let done = complete(&lab, "p").await;
    show(
        "sixty nodes at once",
        &format!("{:.1} s", began.elapsed().as_secs_f64()),
    );
    assert_eq!(done.progress.as_deref(), Some("60/60"));
    assert_eq!(versions(&lab), [NEW; 60]);
    lab.finish(&Expectations::complete("p")).await.unwrap();
}
