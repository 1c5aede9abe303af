//! Finding the API server, without the help of a Service: the way to `default/kubernetes` is what
//! this very program makes.

use axum::http::{Request, Response};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tracing::{debug, info, warn};

/// Where the API server may be, and who we are.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// URLs given by the operator, tried first.
    pub servers: Vec<String>,
    /// Credentials, and one more URL; without it those of the pod that we run in, else those of the
    /// kubelet.
    pub kubeconfig: Option<PathBuf>,
    /// The kubelet's own configuration: its server is tried too.
    pub kubelet_config: PathBuf,
    /// Where the endpoints of the API server are remembered.
    pub saved: Option<SavedServers>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A kubeconfig file cannot be used.
    #[error("the kubeconfig {path}: {error}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: kube::config::KubeconfigError,
    },
    /// A URL cannot be used.
    #[error("the API server address {url:?}: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No way to the API server is known.
    #[error(
        "no API server is known: give --api-server or --kubeconfig, run in a pod with a service \
         account, or use --source DIR without an API server"
    )]
    Nowhere,
    /// The client cannot be made.
    #[error("making a client for {url}: {error}")]
    Client {
        /// The server.
        url: String,
        /// What is wrong.
        error: Box<kube::Error>,
    },
}

/// A client for the first server that answers; when it fails, the next one is asked.
pub async fn connect(access: &Access) -> Result<Client, ConnectError> {
    let base = credentials(access).await?;
    let mut servers = Servers { base, list: Vec::new() };
    for url in &access.servers {
        servers.add(url, None)?;
    }
    servers.add_found(access);
    if servers.list.is_empty() {
        return Err(ConnectError::Nowhere);
    }
    let urls: Vec<_> = servers.list.iter().map(|(url, _)| url.clone()).collect();
    info!(servers = ?urls, "API servers, in the order in which they are tried");
    let failover = Arc::new(Failover { servers: servers.list, current: AtomicUsize::new(0) });
    let service = tower::service_fn(move |request| {
        let failover = failover.clone();
        async move { failover.send(request).await }
    });
    Ok(Client::new(service, "default"))
}

/// Who we are; with the URL that belongs to it, if there is one.
async fn credentials(access: &Access) -> Result<Option<Config>, ConnectError> {
    if let Some(path) = &access.kubeconfig {
        return read_kubeconfig(path).await.map(Some);
    }
    match Config::incluster() {
        Ok(config) => return Ok(Some(config)),
        Err(error) => debug!(%error, "not in a pod with a service account"),
    }
    if access.servers.is_empty() && access.kubelet_config.exists() {
        return read_kubeconfig(&access.kubelet_config).await.map(Some);
    }
    Ok(None)
}

async fn read_kubeconfig(path: &Path) -> Result<Config, ConnectError> {
    let failed = |error| ConnectError::Kubeconfig { path: path.to_owned(), error };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)
}

/// The servers to try, being collected.
struct Servers {
    base: Option<Config>,
    list: Vec<(String, Client)>,
}

impl Servers {
    /// Adds what can be found without being told.
    fn add_found(&mut self, access: &Access) {
        let in_cluster = access.kubeconfig.is_none();
        let own = self.base.as_ref().map(|config| config.cluster_url.to_string());
        // In a pod our own URL is the cluster address of the API server: the last resort.
        let own_first = own.clone().filter(|_| !in_cluster);
        let kubelet = Kubeconfig::read_from(&access.kubelet_config).ok();
        let kubelet = kubelet
            .filter(|_| in_cluster)
            .and_then(|file| file.clusters.into_iter().next()?.cluster?.server);
        let saved = access.saved.as_ref().map(SavedServers::load).unwrap_or_default();
        // Every API server's certificate has this name; its address may be missing there.
        let name = in_cluster.then_some("kubernetes.default.svc");
        let found = own_first.into_iter().chain(kubelet).map(|url| (url, None));
        let found = found.chain(saved.into_iter().map(|url| (url, name)));
        for (url, name) in found.chain(own.map(|url| (url, None))) {
            if let Err(error) = self.add(&url, name) {
                warn!(url, %error, "an API server address that cannot be used");
            }
        }
    }

    fn add(&mut self, url: &str, tls_name: Option<&str>) -> Result<(), ConnectError> {
        let url = url.trim().trim_end_matches('/');
        if self.list.iter().any(|(known, _)| known == url) {
            return Ok(());
        }
        let wrong = |reason: String| ConnectError::Url { url: url.to_owned(), reason };
        let uri: axum::http::Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
        if uri.scheme().is_none() || uri.host().is_none() {
            return Err(wrong("not of the form https://host:port".to_owned()));
        }
        let mut config = self.base.clone().unwrap_or_else(|| Config::new(uri.clone()));
        config.cluster_url = uri;
        if let Some(name) = tls_name {
            config.tls_server_name = Some(name.to_owned());
        }
        config.connect_timeout = Some(CONNECT_TIME);
        config.read_timeout = Some(READ_TIME);
        // Going on to the next server is our own business.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| ConnectError::Client {
            url: url.to_owned(),
            error: Box::new(error),
        })?;
        self.list.push((url.to_owned(), client));
        Ok(())
    }
}

/// Servers that stand in for each other.
struct Failover {
    servers: Vec<(String, Client)>,
    current: AtomicUsize,
}

impl Failover {
    /// Asks the current server, and while there is no answer, the others. Bodies are those of our
    /// Events: small.
    async fn send(&self, request: Request<Body>) -> kube::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let count = self.servers.len();
        let first = self.current.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let index = (first + tried) % count;
            let (url, client) = &self.servers[index];
            let request = Request::from_parts(parts.clone(), Body::from(body.to_vec()));
            let result = client.send(request).await;
            tried += 1;
            match result {
                Err(error) if tried < count => {
                    debug!(url, %error, "the API server does not answer; trying the next");
                }
                Ok(response) => {
                    if self.current.swap(index, Ordering::Relaxed) != index {
                        info!(url, "using this API server");
                    }
                    return Ok(response);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The last good endpoints of the API server, in a file.
#[derive(Clone, Debug)]
pub struct SavedServers {
    path: PathBuf,
}

impl SavedServers {
    /// In this folder, which is made when something is saved.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("api-servers") }
    }

    /// The URLs that were saved; none if there is no file.
    pub fn load(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
    }

    /// Replaces what is saved.
    pub fn save(&self, urls: &[String]) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension("new");
        fs::write(&new, urls.join("\n") + "\n")?;
        fs::rename(&new, &self.path)
    }
}

/// How long a server may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// How long a connection may be silent: servers send a bookmark about every minute.
const READ_TIME: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, routing::get};

    #[test]
    fn servers_are_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let saved = SavedServers::new(&folder.path().join("state"));
        assert!(saved.load().is_empty());
        let urls = ["https://172.18.0.2:6443".to_owned(), "https://[fd00::1]:6443".to_owned()];
        saved.save(&urls).expect("saved");
        assert_eq!(saved.load(), urls);
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_passed_over() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let away = closed.local_addr().expect("its address");
        drop(closed);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let here = listener.local_addr().expect("its address");
        let body = r#"{"major":"1","minor":"36","gitVersion":"v1.36.3","gitCommit":"","gitTreeState":"",
            "buildDate":"","goVersion":"","compiler":"","platform":""}"#;
        let router = Router::new().route("/version", get(async move || body));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let access = Access {
            servers: vec![format!("http://{away}"), format!("http://{here}/")],
            ..Access::default()
        };
        let client = connect(&access).await.expect("a client");
        assert_eq!(client.apiserver_version().await.expect("a version").git_version, "v1.36.3");
        server.abort();
    }

    #[tokio::test]
    async fn addresses_that_are_none_are_named() {
        let access = Access { servers: vec!["172.18.0.2".to_owned()], ..Access::default() };
        let error = connect(&access).await.err().expect("an error");
        assert!(error.to_string().contains("172.18.0.2"), "{error}");
    }
}
