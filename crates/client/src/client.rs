//! Who is asked, and as whom.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use stemedb_types::ProjectName;

use crate::reads::Reads;
use crate::{ApiKey, Error};

/// How long one try may take, from the first byte out to the last byte in.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How a client waits between two tries. Tests give one that does not.
pub type Sleep = Arc<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A client of one cluster. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    pub(crate) reads: Reads,
}

pub(crate) struct Inner {
    pub(crate) http: reqwest::Client,
    /// Without the slash behind; at least one.
    pub(crate) bases: Vec<String>,
    /// Which of them answered last.
    pub(crate) base: AtomicUsize,
    pub(crate) key: Option<ApiKey>,
    pub(crate) project: Option<HeaderValue>,
    pub(crate) sleep: Sleep,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("bases", &self.inner.bases).finish_non_exhaustive()
    }
}

/// What a [`Client`] is made of.
#[derive(Clone)]
pub struct ClientBuilder {
    bases: Vec<String>,
    key: Option<ApiKey>,
    project: Option<ProjectName>,
    timeout: Duration,
    sleep: Sleep,
}

impl Client {
    /// Begins a client of the cluster behind `url`, best a gateway: `http://host:18181`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            bases: vec![url.into()],
            key: None,
            project: None,
            timeout: TRY_TIMEOUT,
            sleep: Arc::new(|wait| Box::pin(tokio::time::sleep(wait))),
        }
    }
}

impl ClientBuilder {
    /// One more address of the same cluster, asked when the one before does not answer.
    pub fn also(mut self, url: impl Into<String>) -> Self {
        self.bases.push(url.into());
        self
    }

    /// The key to present. Without one only open routes answer, unless auth is off.
    pub fn key(mut self, key: ApiKey) -> Self {
        self.key = Some(key);
        self
    }

    /// The project that a key of the cluster (root, admin, auditor) means.
    pub fn project(mut self, project: ProjectName) -> Self {
        self.project = Some(project);
        self
    }

    /// How long one try may take; 30 s unless told.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How to wait between two tries; tokio's timer unless told.
    pub fn sleep(mut self, sleep: Sleep) -> Self {
        self.sleep = sleep;
        self
    }

    /// Makes the client. No connection is opened yet.
    ///
    /// [`Error::Invalid`] for an address that is no `http` or `https` URL, or a key that can't be
    /// a header.
    pub fn build(self) -> Result<Client, Error> {
        let urls: Vec<Url> = self.bases.iter().map(|b| check_base(b)).collect::<Result<_, _>>()?;
        if let Some(key) = &self.key {
            let presentable = !key.is_empty() && key.as_bytes().iter().all(u8::is_ascii_graphic);
            if !presentable {
                return Err(Error::Invalid("an API key is one word of visible ASCII".to_owned()));
            }
        }
        let project = self.project.map(|project| HeaderValue::from_str(project.as_str()));
        let project = project.transpose().map_err(|error| Error::Invalid(error.to_string()))?;
        let inner = Inner {
            http: http(&urls, self.timeout)?,
            bases: urls.iter().map(|url| url.as_str().trim_end_matches('/').to_owned()).collect(),
            base: AtomicUsize::new(0),
            key: self.key,
            project,
            sleep: self.sleep,
        };
        Ok(Client { inner: Arc::new(inner), reads: Reads::default() })
    }
}

fn check_base(text: &str) -> Result<Url, Error> {
    let refused = |why: &str| Err(Error::Invalid(format!("{text:?} is no address: {why}")));
    match Url::parse(text) {
        Err(error) => refused(&error.to_string()),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => refused("http:// or https://"),
        // A key in an address would end up in logs and process lists.
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err(Error::Invalid("an address carries no user or password".to_owned()))
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            refused("no query and no fragment, please")
        }
        Ok(url) => Ok(url),
    }
}

fn http(urls: &[Url], timeout: Duration) -> Result<reqwest::Client, Error> {
    // Which cryptography TLS uses is said once for the process; whoever said it before wins.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("stemedb-client/", env!("CARGO_PKG_VERSION")));
    // The environment's proxy is for the world outside, never for this machine.
    if urls.iter().all(is_local) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| Error::Invalid(format!("no HTTP client: {error}")))
}

fn is_local(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address: Result<std::net::IpAddr, _> = host.parse();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}
