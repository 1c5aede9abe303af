//! Health check servers of single Services (`spec.healthCheckNodePort`).

use super::{
    Telemetry,
    server::{NO_SNIFF, listen},
};
use crate::{
    model::{Family, ObjectName},
    plan::HealthCheck,
};
use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::{
    collections::HashMap,
    future::IntoFuture,
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::TcpListener, sync::watch};
use tracing::info;

/// All of them.
#[derive(Debug)]
pub struct ServiceHealth {
    telemetry: Arc<Telemetry>,
    servers: HashMap<(ObjectName, Family), Server>,
}

/// The servers of one Service, on every address of one family that serves node ports.
#[derive(Debug)]
struct Server {
    port: NonZeroU16,
    addresses: Vec<IpAddr>,
    local_endpoints: Arc<AtomicUsize>,
    /// Dropped to end them.
    _running: watch::Sender<()>,
}

impl ServiceHealth {
    /// None yet.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, servers: HashMap::new() }
    }

    /// Serves exactly `checks`, and returns those that cannot be served: the next call tries again.
    pub fn serve(&mut self, checks: &[HealthCheck]) -> Vec<(HealthCheck, io::Error)> {
        let key = |check: &HealthCheck| (check.service.clone(), check.family);
        let wanted: HashMap<_, _> = checks.iter().map(|check| (key(check), check)).collect();
        self.servers.retain(|service, server| {
            let keep = wanted.get(service).is_some_and(|check| {
                check.port == server.port && check.addresses == server.addresses
            });
            if !keep {
                info!(service = %service.0, port = server.port, "closing the health check");
            }
            keep
        });
        let mut failed = Vec::new();
        for (service, check) in wanted {
            if let Some(server) = self.servers.get(&service) {
                server.local_endpoints.store(check.local_endpoints, Ordering::Relaxed);
                continue;
            }
            match self.start(check) {
                Ok(server) => {
                    info!(service = %service.0, port = check.port, "opening the health check");
                    self.servers.insert(service, server);
                }
                Err(error) => failed.push((check.clone(), error)),
            }
        }
        failed
    }

    fn start(&self, check: &HealthCheck) -> io::Result<Server> {
        let HealthCheck { service, family: _, addresses, port, local_endpoints } = check;
        let listen = |address: &IpAddr| listen(SocketAddr::new(*address, port.get()), false);
        // All of them, before any is served.
        let listeners = addresses.iter().map(listen).collect::<io::Result<Vec<TcpListener>>>()?;
        let local_endpoints = Arc::new(AtomicUsize::new(*local_endpoints));
        let (running, ended) = watch::channel(());
        for listener in listeners {
            let (telemetry, service) = (self.telemetry.clone(), service.clone());
            let (count, mut ended) = (local_endpoints.clone(), ended.clone());
            let answer = async move || {
                answer(&service, count.load(Ordering::Relaxed), telemetry.is_healthy())
            };
            let server = axum::serve(listener, Router::new().fallback(answer));
            let server = server.with_graceful_shutdown(async move {
                // Ends with the sender, which never sends.
                let _ = ended.changed().await;
            });
            tokio::spawn(server.into_future());
        }
        Ok(Server { port: *port, addresses: addresses.clone(), local_endpoints, _running: running })
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

    async fn ask(address: &str, port: NonZeroU16) -> io::Result<String> {
        let mut stream = TcpStream::connect((address, port.get())).await?;
        stream.write_all(b"GET /any HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    fn check(family: Family, addresses: Vec<IpAddr>, local_endpoints: usize) -> HealthCheck {
        let free = listen(SocketAddr::new(family.wildcard(), 0), false).expect("a port");
        let port = free.local_addr().expect("its address").port();
        let port = NonZeroU16::new(port).expect("not 0");
        let service = ObjectName::namespaced("ns", "a");
        HealthCheck { service, family, addresses, port, local_endpoints }
    }

    #[tokio::test]
    async fn servers_follow_the_services() {
        let mut health = ServiceHealth::new(Arc::default());
        let mut check = check(Family::V4, vec![Family::V4.wildcard()], 2);
        assert!(health.serve(std::slice::from_ref(&check)).is_empty());
        let answer = ask("127.0.0.1", check.port).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\ncontent-type: application/json\r\n"), "{answer}");
        assert!(answer.contains("\r\nx-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
        assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"a\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert!(answer.ends_with(body), "{answer}");
        check.local_endpoints = 0;
        assert!(health.serve(std::slice::from_ref(&check)).is_empty());
        let answer = ask("127.0.0.1", check.port).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(health.serve(&[]).is_empty());
        while ask("127.0.0.1", check.port).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn both_families_have_their_own_on_one_port() {
        let mut health = ServiceHealth::new(Arc::default());
        let v4 = check(Family::V4, vec![Family::V4.wildcard()], 1);
        let v6 = HealthCheck {
            family: Family::V6,
            addresses: vec![Family::V6.wildcard()],
            local_endpoints: 0,
            ..v4.clone()
        };
        assert!(health.serve(&[v4.clone(), v6]).is_empty());
        for (address, code) in [("127.0.0.1", "200"), ("::1", "503")] {
            let answer = ask(address, v4.port).await.expect("an answer");
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{address}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_and_tried_again() {
        let mut health = ServiceHealth::new(Arc::default());
        let check = check(Family::V4, vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into()], 1);
        let taken = listen(([127, 0, 0, 3], check.port.get()).into(), false).expect("free");
        let checks = [check.clone()];
        let failed = health.serve(&checks);
        assert_eq!(failed.len(), 1);
        assert_eq!((&failed[0].0, failed[0].1.kind()), (&check, io::ErrorKind::AddrInUse));
        assert!(ask("127.0.0.2", check.port).await.is_err(), "all addresses or none");
        drop(taken);
        assert!(health.serve(&checks).is_empty());
        for address in ["127.0.0.2", "127.0.0.3"] {
            assert!(ask(address, check.port).await.expect("an answer").contains("200 OK"));
        }
        assert!(ask("127.0.0.1", check.port).await.is_err(), "no address of node ports");
    }
}
