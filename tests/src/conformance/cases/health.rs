//! Sections 1.7 to 1.9: health checks of Services, of the proxy, and its metrics.

use super::super::{
    KUBE_PROXY,
    case::{Case, case, otherwise, reach},
    place::{
        AWAY, AWAY_POD, CLUSTER_IP, ELSEWHERE, Endpoint, FAR, HOME, NEAR, NEAR_2, NODE_PORT,
        OUTSIDE_CLIENT, POD,
    },
    trial::Trial,
};
use crate::{
    proto::Verdict,
    suite::eventually,
    topology::{NodeSpec, OUTSIDE},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn cases() -> Vec<Case> {
    [services(), proxies()].into_iter().flatten().collect()
}

/// `healthCheckNodePort`.
fn services() -> Vec<Case> {
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    vec![
        case("1.7", "health-check-node-port", "200 with local ready endpoints, else 503")
            .service(local.clone())
            .endpoints(&[NEAR, NEAR_2, FAR.draining()])
            .check("codes, bodies and headers", |trial| {
                let page = service_health(trial, HOME, "/", 200)?;
                let body = format!(
                    "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"{}\"\n\t}},\
                     \n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}}",
                    trial.name("")
                );
                ensure!(page.body == body, "{:?}, not {body:?}", page.body);
                page.has("Content-Type", "application/json")?;
                page.has("X-Content-Type-Options", "nosniff")?;
                page.has("X-Load-Balancing-Endpoint-Weight", "2")?;
                let page = service_health(trial, AWAY, "/", 503)?;
                page.has("X-Load-Balancing-Endpoint-Weight", "0")?;
                ensure!(page.body.contains("\"localEndpoints\": 0"), "{:?}", page.body);
                Ok(())
            })
            .check("the same for every path", |trial| {
                service_health(trial, HOME, "/any/path?at=all", 200).map(drop)
            })
            .check("at the addresses of node ports only", |trial| {
                let url = service_url(trial, HOME, "/")?;
                let gateway = HOME.pod(1).v4.to_string();
                let to = url.replace(&HOME.address().v4.to_string(), &gateway);
                let to = to.trim_start_matches("http://").trim_end_matches('/').parse()?;
                let verdict = trial.lab().space(POD.space)?.http(to, "/")?;
                ensure!(verdict == Verdict::Refused, "at {to}: {verdict}");
                Ok(())
            })
            .endpoints(&[NEAR.draining(), FAR])
            .check("terminating endpoints do not count", |trial| {
                service_codes(trial, 503, 200)
            })
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR])),
        case("1.7", "health-check-closes", "The port closes with the policy Local")
            .service(local)
            .endpoints(&[NEAR])
            .check("open with policy Local", |trial| service_health(trial, HOME, "/", 200).map(drop))
            .patch_and_remember(json!({"spec": {"externalTrafficPolicy": "Cluster"}}))
            .check("closed with policy Cluster", service_health_closed),
        case("1.7", "no-health-check", "Only type LoadBalancer with policy Local has one")
            .service(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}))
            .endpoints(&[NEAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR]))
            .check("no port is allocated", |trial| {
                let service = trial.service("")?;
                let port = &service.value()["spec"]["healthCheckNodePort"];
                ensure!(port.is_null(), "{port}");
                Ok(())
            }),
    ]
}

fn proxies() -> Vec<Case> {
    const OURS_ONLY: &str = "the name of the mode is the proxy's own";
    vec![
        case("1.8", "healthz-and-livez", "/healthz and /livez on port 10256").check(
            "200, and what they say",
            |trial| {
                for (path, eligible) in [("/healthz", Some(true)), ("/livez", None)] {
                    let page = fetch(trial, OUTSIDE, &node_url(HOME, 10_256, path))?;
                    page.is(200)?;
                    page.has("Content-Type", "application/json")?;
                    page.has("X-Content-Type-Options", "nosniff")?;
                    let body: Value = serde_json::from_str(&page.body)?;
                    for field in ["lastUpdated", "currentTime"] {
                        ensure!(body[field].is_string(), "{path} without {field}: {body}");
                    }
                    ensure!(body["healthy"] == true, "{path}: {body}");
                    ensure!(body["nodeEligible"].as_bool() == eligible, "{path}: {body}");
                    for family in ["IPv4", "IPv6"] {
                        let status = &body["status"][family];
                        let good = status["healthy"] == true && status["lastUpdated"].is_string();
                        ensure!(good, "{path}: {body}");
                    }
                }
                Ok(())
            },
        ),
        case(
            "1.8",
            "autoscaler-taint",
            "A node that the autoscaler removes: /healthz 503, /livez 200",
        )
        .then("the taint", |trial| {
            taint(
                trial,
                &json!([{
                    "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule",
                }]),
            )
        })
        .check("/healthz says 503, /livez 200", |trial| codes(trial, 503, 200))
        .then("no taint", |trial| taint(trial, &json!(null)))
        .check("both say 200", |trial| codes(trial, 200, 200)),
        case("1.8", "proxy-mode", "/proxyMode on port 10249")
            .check("200 and a word", urls)
            .check("the word is that of ours, `ebpf`", |trial| {
                let page = fetch(trial, HOME.name, "http://127.0.0.1:10249/proxyMode")?;
                ensure!(page.body.trim() == "ebpf", "{:?}", page.body);
                Ok(())
            })
            .but(KUBE_PROXY, otherwise(), OURS_ONLY),
        case("1.9", "metrics", "/metrics on port 10249, names as kube-proxy has them")
            .service(json!({"internalTrafficPolicy": "Local", "selector": true}))
            .pods(&[("1", AWAY)])
            .expect(&[AWAY_POD], CLUSTER_IP, reach(&[Endpoint::of("metrics-1", AWAY)]))
            .check("the names with the same meaning", |trial| {
                // Answers of /healthz are counted from the first on.
                fetch(trial, HOME.name, "http://127.0.0.1:10256/healthz")?;
                fetch(trial, HOME.name, "http://127.0.0.1:10256/livez")?;
                eventually(PATIENCE, || {
                    let page = metrics(trial)?;
                    let missing: Vec<_> =
                        METRICS.iter().filter(|name| !page.contains(**name)).collect();
                    ensure!(missing.is_empty(), "without {missing:?}");
                    Ok(())
                })
            })
            .check("a policy Local that leaves nothing is counted", |trial| {
                eventually(PATIENCE, || {
                    let page = metrics(trial)?;
                    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
                    let counted = page.lines().any(|line| {
                        line.starts_with(name)
                            && line.contains("internal")
                            && line.contains("IPv4")
                            && !line.ends_with(" 0")
                    });
                    ensure!(counted, "not in {name}");
                    Ok(())
                })
            })
            .expect(&[POD], CLUSTER_IP, super::super::case::silence()),
    ]
}

/// The pages that say whether a proxy works, and as what.
pub(super) fn urls(trial: &Trial<'_>) -> Result<()> {
    let page = fetch(trial, HOME.name, "http://127.0.0.1:10256/healthz")?;
    page.is(200)?;
    ensure!(page.body.contains("lastUpdated"), "{:?}", page.body);
    let page = fetch(trial, HOME.name, "http://127.0.0.1:10249/proxyMode")?;
    page.is(200)?;
    ensure!(!page.body.trim().is_empty(), "no mode");
    Ok(())
}

/// Waits until the health checks of the Service have these codes on the clients' node and on another.
pub(super) fn service_codes(trial: &Trial<'_>, here: u16, there: u16) -> Result<()> {
    service_health(trial, HOME, "/", here)?;
    service_health(trial, AWAY, "/", there).map(drop)
}

/// Waits until nobody listens for health checks of the Service as it was.
pub(super) fn service_health_closed(trial: &Trial<'_>) -> Result<()> {
    let url = service_url(trial, HOME, "/")?;
    let space = trial.lab().space(OUTSIDE)?;
    let to = url.trim_start_matches("http://").trim_end_matches('/').parse()?;
    eventually(PATIENCE, || {
        let verdict = space.http(to, "/")?;
        ensure!(verdict == Verdict::Refused, "{verdict}");
        Ok(())
    })
}

/// Metrics of kube-proxy that mean the same in any proxy.
const METRICS: &[&str] = &[
    "kubeproxy_network_programming_duration_seconds_bucket{",
    "kubeproxy_sync_proxy_rules_duration_seconds_bucket{",
    "kubeproxy_sync_full_proxy_rules_duration_seconds_bucket{",
    "kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket{",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    "kubeproxy_sync_proxy_rules_service_changes_total",
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total{",
    "kubeproxy_proxy_healthz_total{",
    "kubeproxy_proxy_livez_total{",
];

/// An HTTP answer.
struct Page {
    code: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Page {
    fn is(&self, code: u16) -> Result<()> {
        ensure!(self.code == code, "{} instead of {code}: {}", self.code, self.body);
        Ok(())
    }

    fn has(&self, name: &str, value: &str) -> Result<()> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        let found = found.map(|(_, value)| value.as_str());
        ensure!(found == Some(value), "{name} is {found:?}, not {value:?}");
        Ok(())
    }
}

fn fetch(trial: &Trial<'_>, from: &str, url: &str) -> Result<Page> {
    let space = trial.lab().space(from)?;
    let text = space.output("curl", &["-sSi", "--max-time", "3", url])?;
    let (head, body) = text.split_once("\r\n\r\n").context("no headers")?;
    let code = head.split_whitespace().nth(1).context("no code")?.parse()?;
    let headers = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(Page { code, headers: headers.collect(), body: body.to_owned() })
}

/// The metrics of the proxy of the node under test.
pub(super) fn metrics(trial: &Trial<'_>) -> Result<String> {
    let page = fetch(trial, HOME.name, "http://127.0.0.1:10249/metrics")?;
    page.is(200)?;
    Ok(page.body)
}

fn node_url(node: &NodeSpec, port: u16, path: &str) -> String {
    format!("http://{}:{port}{path}", node.address().v4)
}

fn service_url(trial: &Trial<'_>, node: &NodeSpec, path: &str) -> Result<String> {
    let service = trial.service("")?;
    let port = service.value()["spec"]["healthCheckNodePort"].as_u64().context("no port")?;
    Ok(node_url(node, u16::try_from(port)?, path))
}

/// The Service's health check on a node, once it has the code.
fn service_health(trial: &Trial<'_>, node: &NodeSpec, path: &str, code: u16) -> Result<Page> {
    let url = service_url(trial, node, path)?;
    eventually(PATIENCE, || {
        let page = fetch(trial, OUTSIDE, &url)?;
        page.is(code)?;
        Ok(page)
    })
}

fn taint(trial: &Trial<'_>, taints: &Value) -> Result<()> {
    trial.lab().patch_node(ELSEWHERE.name, &json!({"spec": {"taints": taints}}))
}

fn codes(trial: &Trial<'_>, healthz: u16, livez: u16) -> Result<()> {
    eventually(PATIENCE, || {
        fetch(trial, OUTSIDE, &node_url(ELSEWHERE, 10_256, "/healthz"))?.is(healthz)?;
        fetch(trial, OUTSIDE, &node_url(ELSEWHERE, 10_256, "/livez"))?.is(livez)
    })
}
