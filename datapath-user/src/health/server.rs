//! The servers on 10256 and 10249.

use super::{KernelNumbers, Telemetry};
use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{future::IntoFuture, net::SocketAddr, sync::Arc, time::Duration};
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
    let metrics = async move || {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            numbers.send(reply).await.ok()?;
            answer.await.ok()
        };
        // The agent's own metrics are there even if its loop is stuck.
        let kernel = timeout(NUMBERS_TIME, asked).await.ok().flatten();
        ([(header::CONTENT_TYPE, METRICS_TYPE)], telemetry.encode(kernel))
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
        match TcpListener::bind(address).await {
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

/// What `/proxyMode` answers, where kube-proxy says `iptables` or `nftables`.
const MODE: &str = "ebpf";

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) const NO_SNIFF: [(HeaderName, &str); 1] = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// How long the agent's loop may take to read the kernel's numbers.
const NUMBERS_TIME: Duration = Duration::from_secs(5);

/// Pause between attempts to serve.
const RETRY: Duration = Duration::from_secs(5);
