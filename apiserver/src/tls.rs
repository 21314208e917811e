//! The certificate, read again when its files change.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::time::Instant;

/// The certificate and key in use.
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    config: Arc<ServerConfig>,
    stamp: Stamp,
    checked: Instant,
}

/// What the files looked like when they were read last, whether or not they were of use.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificates {
    /// Reads both files.
    ///
    /// # Errors
    /// Where they hold no certificate and key that belong together.
    pub fn load(cert: &Path, key: &Path, interval: Duration) -> anyhow::Result<Self> {
        let stamp = stamp(cert, key);
        let state = State {
            config: read(cert, key)?,
            stamp,
            checked: Instant::now(),
        };
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            interval,
            state: Mutex::new(state),
        })
    }

    /// The settings for the next connection. Looks at the files, but not at every call; what is broken is not
    /// taken over.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= self.interval {
            state.checked = Instant::now();
            let stamp = stamp(&self.cert, &self.key);
            if stamp != state.stamp {
                state.stamp = stamp;
                match read(&self.cert, &self.key) {
                    Ok(config) => {
                        tracing::info!("serving a new certificate");
                        state.config = config;
                    }
                    Err(error) => {
                        tracing::warn!("the new certificate is of no use, the old one is kept: {error:#}");
                    }
                }
            }
        }
        state.config.clone()
    }
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    [cert, key].map(|path| {
        let metadata = path.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read a PEM certificate chain from {}", cert.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read a PEM private key from {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not belong together", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use std::fs;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_files_and_keeps_the_old_one_while_they_are_broken() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let ((cert_a, key_a), (cert_b, key_b)) = (pair(), pair());
        fs::write(&cert, cert_a).unwrap();
        fs::write(&key, key_a).unwrap();
        let interval = Duration::from_secs(5);
        let certificates = Certificates::load(&cert, &key, interval).unwrap();
        let first = certificates.current();

        fs::write(&cert, format!("{cert_b}\n")).unwrap();
        assert!(Arc::ptr_eq(&first, &certificates.current()), "not looked at yet");
        tokio::time::advance(interval).await;
        assert!(
            Arc::ptr_eq(&first, &certificates.current()),
            "the key is still the old one"
        );
        fs::write(&key, format!("{key_b}\n")).unwrap();
        tokio::time::advance(interval).await;
        let second = certificates.current();
        assert!(!Arc::ptr_eq(&first, &second));

        fs::remove_file(&cert).unwrap();
        tokio::time::advance(interval).await;
        assert!(Arc::ptr_eq(&second, &certificates.current()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let load = || {
            Certificates::load(&cert, &key, Duration::from_secs(5))
                .err()
                .unwrap()
        };
        assert!(format!("{:#}", load()).contains("tls.crt"));
        let (cert_a, key_b) = (pair().0, pair().1);
        fs::write(&cert, cert_a).unwrap();
        assert!(format!("{:#}", load()).contains("tls.key"));
        fs::write(&key, key_b).unwrap();
        assert!(format!("{:#}", load()).contains("do not belong together"));
    }
}
