//! In front of a server that tells what it was asked, and streams lines.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::{Proxy, When, forward};
use crate::pki::Authority;

const SOON: Duration = Duration::from_secs(10);

struct Setup {
    proxy: Proxy,
    client: forward::Client,
    _directory: TempDir,
}

impl Setup {
    async fn new() -> Self {
        let authority = Authority::new("upstream").unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let tls = forward::acceptor(&authority.server(&[]).unwrap()).unwrap();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let stream = tls.accept(tcp).await.unwrap();
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(serving);
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let proxy = Proxy::in_front_of(&url, &authority.pem(), directory.path(), "test")
            .await
            .unwrap();
        let ca = std::fs::read_to_string(&proxy.ca_file).unwrap();
        Self {
            proxy,
            client: forward::client(&ca).unwrap(),
            _directory: directory,
        }
    }

    fn request(&self, method: Method, path: &str, body: &'static str) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.proxy.url))
            .header("authorization", "Bearer secret")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap()
    }

    /// Sends a request from a task of its own.
    fn send(&self, method: Method, path: &str) -> tokio::task::JoinHandle<Option<String>> {
        let answer = self.client.request(self.request(method, path, "body"));
        tokio::spawn(async move {
            let body = answer.await.ok()?.into_body().collect().await.ok()?;
            Some(String::from_utf8_lossy(&body.to_bytes()).into_owned())
        })
    }

    fn answered(&self, path: &str) -> bool {
        let journal = self.proxy.journal();
        journal
            .iter()
            .any(|passed| passed.asked.path == path && passed.status.is_some())
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Says what it was asked; to a watch, a line every 50 ms.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    if request.uri().query() == Some("watch=true") {
        let lines = stream::iter(0..100).then(|number| async move {
            sleep(Duration::from_millis(50)).await;
            Ok(Frame::data(Bytes::from(format!("{number}\n"))))
        });
        return Ok(Response::new(StreamBody::new(lines).boxed_unsync()));
    }
    let (head, body) = request.into_parts();
    let body = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
    let authorization = head
        .headers
        .get("authorization")
        .map(|value| value.to_str().unwrap());
    let said = format!("{} {} {authorization:?} {body}", head.method, head.uri);
    let mut response = Response::new(Full::from(said).boxed_unsync());
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

#[tokio::test]
async fn a_request_is_passed_on_as_it_is() {
    let setup = Setup::new().await;
    let request = setup.request(Method::PUT, "/some/path?query=1", "body");
    let answer = setup.client.request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        String::from_utf8_lossy(&body),
        r#"PUT /some/path?query=1 Some("Bearer secret") body"#
    );
    let journal = setup.proxy.journal();
    assert_eq!(journal.len(), 1);
    assert!(journal[0].asked.is(&Method::PUT, "/path"));
    assert_eq!(journal[0].status, Some(StatusCode::ACCEPTED));
}

#[tokio::test]
async fn a_kubeconfig_leads_through_here_with_the_same_credentials() {
    let setup = Setup::new().await;
    let direct = setup.proxy.directory.join("direct");
    let text = "clusters:\n- cluster:\n    server: https://x\n    certificate-authority: y\nusers:\n- user:\n    token: t\n";
    std::fs::write(&direct, text).unwrap();
    let through = std::fs::read_to_string(setup.proxy.kubeconfig(&direct).unwrap()).unwrap();
    let (url, ca) = (&setup.proxy.url, setup.proxy.ca_file.display());
    assert_eq!(
        through.trim_end(),
        format!(
            "clusters:\n- cluster:\n    server: {url}\n    certificate-authority: {ca}\nusers:\n- user:\n    token: t"
        )
    );
}

#[tokio::test]
async fn the_lines_of_a_watch_arrive_late_in_order_and_each_by_itself() {
    let setup = Setup::new().await;
    let delay = Duration::from_millis(400);
    let rule = setup.proxy.delay_watches(delay, |asked| asked.path == "/things");
    let begun = Instant::now();
    let request = setup.request(Method::GET, "/things?watch=true", "");
    let answer = setup.client.request(request).await.unwrap();
    let mut lines = answer.into_body().into_data_stream();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let line = timeout(SOON, lines.next()).await.unwrap().unwrap().unwrap();
        seen.extend_from_slice(&line);
        if seen.len() == line.len() {
            assert!(begun.elapsed() >= delay, "the first line was early");
        }
    }
    assert_eq!(&seen[..4], b"0\n1\n");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "nothing waits for the end"
    );
    drop(rule);
    // From now on there is no delay, and still nothing overtakes.
    while !seen.ends_with(b"40\n") {
        let line = timeout(SOON, lines.next()).await.unwrap().unwrap().unwrap();
        seen.extend_from_slice(&line);
    }
    let wanted: String = (0..=40).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(seen).unwrap(), wanted);
}

#[tokio::test]
async fn a_request_that_is_held_arrives_when_it_is_let_go_even_where_its_sender_has_given_up() {
    let setup = Setup::new().await;
    let mut hold = setup.proxy.hold(When::Asked, |asked| asked.path == "/held");
    let sender = setup.send(Method::PUT, "/held");
    let other = setup.send(Method::PUT, "/other");
    let held = hold.next(SOON).await.unwrap();
    assert_eq!(held.status, None);
    assert!(other.await.unwrap().is_some(), "others pass");
    sender.abort();
    assert!(!setup.answered("/held"));
    assert_eq!(held.release().await, Some(StatusCode::ACCEPTED));
    setup.until("it never arrived", || setup.answered("/held")).await;

    drop(hold);
    assert!(setup.send(Method::PUT, "/held").await.unwrap().is_some());
}

#[tokio::test]
async fn an_answer_that_is_held_is_of_a_request_that_is_done() {
    let setup = Setup::new().await;
    let mut hold = setup.proxy.hold(When::Answered, |asked| asked.path == "/held");
    let mut sender = setup.send(Method::PUT, "/held");
    let held = hold.next(SOON).await.unwrap();
    assert_eq!(held.status, Some(StatusCode::ACCEPTED));
    assert!(setup.answered("/held"));
    let waited = timeout(Duration::from_millis(100), &mut sender).await;
    assert!(waited.is_err(), "the answer came though it is held");
    drop(held);
    assert!(sender.await.unwrap().unwrap().starts_with("PUT /held"));
}

#[tokio::test]
async fn a_lost_answer_is_of_a_request_that_is_done_and_a_cut_ends_every_connection() {
    let setup = Setup::new().await;
    let rule = setup.proxy.lose_answers(|asked| asked.path == "/lost");
    assert_eq!(setup.send(Method::PUT, "/lost").await.unwrap(), None);
    assert!(setup.answered("/lost"));
    drop(rule);
    assert!(setup.send(Method::PUT, "/lost").await.unwrap().is_some());

    let request = setup.request(Method::GET, "/things?watch=true", "");
    let answer = setup.client.request(request).await.unwrap();
    let mut lines = answer.into_body().into_data_stream();
    assert!(lines.next().await.unwrap().is_ok());
    setup.proxy.cut();
    let ends = async { while lines.next().await.is_some_and(|line| line.is_ok()) {} };
    timeout(Duration::from_secs(3), ends)
        .await
        .expect("it was not cut");
    assert!(setup.send(Method::PUT, "/again").await.unwrap().is_some());
}
