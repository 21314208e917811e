//! The only place where kube's jiff meets our chrono.

use chrono::{DateTime, TimeZone, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// A Kubernetes time as chrono has it. Times outside chrono's range saturate.
#[must_use]
pub fn to_chrono(time: &Time) -> DateTime<Utc> {
    timestamp_to_chrono(time.0)
}

/// A Kubernetes micro time as chrono has it. Times outside chrono's range saturate.
#[must_use]
pub fn micro_to_chrono(time: &MicroTime) -> DateTime<Utc> {
    timestamp_to_chrono(time.0)
}

fn timestamp_to_chrono(time: jiff::Timestamp) -> DateTime<Utc> {
    let nanos = u32::try_from(time.subsec_nanosecond().max(0)).unwrap_or(0);
    Utc.timestamp_opt(time.as_second(), nanos)
        .single()
        .unwrap_or(if time.as_second() < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
}

/// A chrono time as Kubernetes has it. Times outside jiff's range saturate.
#[must_use]
pub fn to_kubernetes(time: DateTime<Utc>) -> Time {
    Time(to_timestamp(time))
}

/// A chrono time as Kubernetes' micro time. Times outside jiff's range saturate.
#[must_use]
pub fn to_kubernetes_micro(time: DateTime<Utc>) -> MicroTime {
    MicroTime(to_timestamp(time))
}

fn to_timestamp(time: DateTime<Utc>) -> jiff::Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0);
    jiff::Timestamp::new(time.timestamp(), nanos).unwrap_or(if time.timestamp() < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let time = Utc.timestamp_opt(1_795_000_000, 123_000_000).single();
        assert_eq!(time, time.map(|t| to_chrono(&to_kubernetes(t))));
        assert_eq!(time, time.map(|t| micro_to_chrono(&to_kubernetes_micro(t))));
    }
}
