//! Health check servers of single Services (`spec.healthCheckNodePort`).

use super::{Telemetry, server::NO_SNIFF};
use crate::{model::ObjectName, plan::HealthCheck};
use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::{
    collections::HashMap,
    future::IntoFuture,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::TcpListener, sync::oneshot};
use tracing::{error, info};

/// All of them.
#[derive(Debug)]
pub struct ServiceHealth {
    telemetry: Arc<Telemetry>,
    servers: HashMap<ObjectName, Server>,
}

#[derive(Debug)]
struct Server {
    port: NonZeroU16,
    local_endpoints: Arc<AtomicUsize>,
    /// Dropped to end the server.
    _running: oneshot::Sender<()>,
}

impl ServiceHealth {
    /// None yet.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, servers: HashMap::new() }
    }

    /// Serves exactly `checks`. A port that is taken is logged, and tried again by the next call.
    pub async fn serve(&mut self, checks: Vec<HealthCheck>) {
        let wanted: HashMap<_, _> =
            checks.into_iter().map(|check| (check.service.clone(), check)).collect();
        self.servers.retain(|service, server| {
            let keep = wanted.get(service).is_some_and(|check| check.port == server.port);
            if !keep {
                info!(%service, port = server.port, "closing the health check");
            }
            keep
        });
        for (service, check) in wanted {
            let HealthCheck { service: _, port, local_endpoints } = check;
            if let Some(server) = self.servers.get(&service) {
                server.local_endpoints.store(local_endpoints, Ordering::Relaxed);
                continue;
            }
            match self.start(&service, port, local_endpoints).await {
                Ok(server) => {
                    info!(%service, port, "opening the health check");
                    self.servers.insert(service, server);
                }
                Err(error) => error!(%service, port, %error, "the health check cannot be served"),
            }
        }
    }

    async fn start(
        &self,
        service: &ObjectName,
        port: NonZeroU16,
        local_endpoints: usize,
    ) -> io::Result<Server> {
        let listener = listen(port.get()).await?;
        let local_endpoints = Arc::new(AtomicUsize::new(local_endpoints));
        let (running, ended) = oneshot::channel::<()>();
        let (telemetry, service) = (self.telemetry.clone(), service.clone());
        let count = local_endpoints.clone();
        let answer =
            async move || answer(&service, count.load(Ordering::Relaxed), telemetry.is_healthy());
        let server = axum::serve(listener, Router::new().fallback(answer));
        let server = server.with_graceful_shutdown(async move {
            // Ends with the sender, whether or not it sends.
            let _ = ended.await;
        });
        tokio::spawn(server.into_future());
        Ok(Server { port, local_endpoints, _running: running })
    }
}

/// Listens on all addresses of both families, or of IPv4 where there is no other.
async fn listen(port: u16) -> io::Result<TcpListener> {
    let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    match TcpListener::bind(both).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await
        }
        result => result,
    }
}

fn answer(service: &ObjectName, local_endpoints: usize, healthy: bool) -> Response {
    let good = local_endpoints > 0 && healthy;
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\
         \t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        service.namespace(),
        service.name(),
    );
    let weight = [(WEIGHT, local_endpoints.to_string())];
    (code, [(header::CONTENT_TYPE, "application/json")], NO_SNIFF, weight, body).into_response()
}

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
