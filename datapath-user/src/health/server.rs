//! The servers on 10256 and 10249.

use super::{KernelNumbers, Telemetry};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
        sockopt,
    },
};
use std::{
    future::IntoFuture,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tracing::{error, info};

/// A request for the kernel's numbers, with the way back.
pub type NumbersRequest = oneshot::Sender<KernelNumbers>;

/// Serves `/healthz` and `/livez` for ever.
pub async fn serve_health(address: SocketAddr, telemetry: Arc<Telemetry>) {
    let answer = |healthz| {
        get(async move |State(telemetry): State<Arc<Telemetry>>| health(&telemetry, healthz))
    };
    let router = Router::new()
        .route("/healthz", answer(true))
        .route("/livez", answer(false))
        .with_state(telemetry);
    serve("health", address, router).await;
}

/// Serves `/metrics` and `/proxyMode` for ever.
pub async fn serve_metrics(
    address: SocketAddr,
    telemetry: Arc<Telemetry>,
    numbers: mpsc::Sender<NumbersRequest>,
) {
    let metrics = async move |headers: HeaderMap| {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            numbers.send(reply).await.ok()?;
            answer.await.ok()
        };
        // The agent's own metrics are there even if its loop is stuck.
        let kernel = timeout(NUMBERS_TIME, asked).await.ok().flatten();
        let kind = if wants_open_metrics(&headers) { OPEN_METRICS } else { PROMETHEUS };
        ([(header::CONTENT_TYPE, kind)], telemetry.encode(kernel))
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok"))
        .route("/proxyMode", get(async || (NO_SNIFF, MODE)));
    serve("metrics", address, router).await;
}

fn health(telemetry: &Telemetry, healthz: bool) -> Response {
    let health = telemetry.health(healthz);
    let good = health.healthy && health.node_eligible != Some(false);
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&health).unwrap_or_default();
    (code, [(header::CONTENT_TYPE, "application/json")], NO_SNIFF, body).into_response()
}

/// Serves for ever; an address that is taken is tried again.
async fn serve(what: &str, address: SocketAddr, router: Router) {
    loop {
        match listen(address, true) {
            Ok(listener) => {
                info!(what, %address, "serving");
                let Err(error) = axum::serve(listener, router.clone()).into_future().await else {
                    return;
                };
                error!(what, %address, %error, "serving ended");
            }
            Err(error) => error!(what, %address, %error, "the address cannot be served"),
        }
        sleep(RETRY).await;
    }
}

/// Listens on an address; on the IPv4 wildcard with `both` on all addresses of IPv6 too, as Go's
/// servers do, and otherwise on one family alone.
pub(super) fn listen(address: SocketAddr, both: bool) -> io::Result<TcpListener> {
    if both && address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        let all = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
        match listen_with(all, false) {
            // No IPv6 here.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {}
            result => return Ok(result?),
        }
    }
    Ok(listen_with(address, !both)?)
}

fn listen_with(address: SocketAddr, v6_only: bool) -> nix::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &v6_only)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    nix::sys::socket::listen(&socket, Backlog::MAXCONN)?;
    TcpListener::from_std(socket.into()).map_err(|_no_runtime| Errno::EINVAL)
}

/// What `/proxyMode` answers, where kube-proxy says `iptables` or `nftables`.
const MODE: &str = "ebpf";

/// Whether the client asks for OpenMetrics. The older format, which everybody reads, has room for all
/// that we say.
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains("openmetrics-text"))
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) const NO_SNIFF: [(HeaderName, &str); 1] = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// How long the agent's loop may take to read the kernel's numbers.
const NUMBERS_TIME: Duration = Duration::from_secs(5);

/// Pause between attempts to serve.
const RETRY: Duration = Duration::from_secs(5);
