//! What is counted.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern, or `none`.
    pub route: String,
    /// The status of the answer.
    pub status: u32,
}

/// A label with a stable word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// The stable word.
    pub result: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    streams: Gauge,
    permits: Family<ResultLabel, Counter>,
    reviews: Family<ResultLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("brupop_apiserver");
        let (requests, permits, reviews) = (Family::default(), Family::default(), Family::default());
        let streams = Gauge::default();
        registry.register(
            "requests",
            "Requests of agents, by route and status of the answer",
            requests.clone(),
        );
        registry.register("streams", "Instruction streams that are open", streams.clone());
        registry.register(
            "permits",
            "Requests for a reboot permit, by result",
            permits.clone(),
        );
        registry.register(
            "token_reviews",
            "Token reviews asked of Kubernetes, by result",
            reviews.clone(),
        );
        Self {
            registry,
            requests,
            streams,
            permits,
            reviews,
        }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, route: &str, status: u16) {
        let labels = RequestLabels {
            route: route.to_owned(),
            status: status.into(),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts an answer to a request for a permit.
    pub fn permit(&self, result: &'static str) {
        self.permits.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts a token review.
    pub fn review(&self, result: &'static str) {
        self.reviews.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts a stream for as long as the guard lives.
    #[must_use]
    pub fn stream(&self) -> OpenStream {
        self.streams.inc();
        OpenStream(self.streams.clone())
    }

    /// Everything in OpenMetrics' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

/// A stream that is open.
#[derive(Debug)]
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.request("/v1/nodes/{node}/permit", 409);
        metrics.permit("NotCordoned");
        let open = metrics.stream();
        assert!(
            metrics.text().contains("brupop_apiserver_streams 1"),
            "{}",
            metrics.text()
        );
        drop(open);
        let text = metrics.text();
        for line in [
            "brupop_apiserver_requests_total{route=\"/v1/nodes/{node}/permit\",status=\"409\"} 1",
            "brupop_apiserver_permits_total{result=\"NotCordoned\"} 1",
            "brupop_apiserver_streams 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
