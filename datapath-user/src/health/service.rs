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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    async fn ask(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /any HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    async fn free_port() -> NonZeroU16 {
        let listener = listen(0).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        NonZeroU16::new(port).expect("not 0")
    }

    #[tokio::test]
    async fn servers_follow_the_services() {
        let mut health = ServiceHealth::new(Arc::default());
        let service = ObjectName::namespaced("ns", "a");
        let port = free_port().await;
        let check =
            |local_endpoints| vec![HealthCheck { service: service.clone(), port, local_endpoints }];
        health.serve(check(2)).await;
        let answer = ask(port.get()).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nx-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
        assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"a\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert!(answer.ends_with(body), "{answer}");
        health.serve(check(0)).await;
        let answer = ask(port.get()).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        health.serve(Vec::new()).await;
        while ask(port.get()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
