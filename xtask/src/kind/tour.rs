//! The tour: nodes, the test Service, and requests to it from everywhere: by its address over TCP
//! and UDP, and by its name; from every pod, host-network pod and node.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use super::cluster::{self, Cluster};

/// The test server and client of the Kubernetes project.
pub(crate) const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// The test pods, with `AGNHOST_IMAGE` for the image.
const PODS: &str = include_str!("tour.yaml");

const NAME: &str = "tour.default.svc.cluster.local";

/// Requests per client by each way.
const REQUESTS: usize = 12;

/// A place that requests come from: a pod, or a node.
struct Client {
    name: String,
    node: String,
    kind: &'static str,
}

/// Cluster addresses of the Services that are asked.
struct Addresses {
    tour: String,
    dns: String,
}

/// Deploys the test pods and asks them from everywhere.
///
/// # Errors
///
/// When something does not answer; the table on the screen shows what.
pub(crate) fn give(cluster: &Cluster, image: &str) -> Result<()> {
    cluster.apply(&PODS.replace("AGNHOST_IMAGE", image))?;
    cluster.rollout("default", "daemonset/tour")?;
    cluster.rollout("default", "daemonset/tour-host")?;
    println!("\n{}", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    println!("{}", cluster.kubectl(&["get", "services,endpointslices", "-A"])?);
    let address = |namespace, name| {
        let path = "jsonpath={.spec.clusterIP}";
        cluster.kubectl(&["get", "service", "-n", namespace, name, "-o", path])
    };
    let addresses =
        Addresses { tour: address("default", "tour")?, dns: address("kube-system", "kube-dns")? };
    println!("{REQUESTS} requests each, and who answered how many:\n");
    println!("{:<10} {:<22} {:<5} answers", "client", "on", "by");
    let mut unanswered = 0;
    for client in &clients(cluster)? {
        for (way, request) in client.ways(&addresses) {
            unanswered += client.ask(cluster, way, &request);
        }
    }
    match cluster.services() {
        Ok(services) => println!("\n{services}"),
        Err(error) => println!("\nno list of Services: {error:#}"),
    }
    if unanswered > 0 {
        bail!("{unanswered} requests were not answered");
    }
    println!("Every request was answered.");
    Ok(())
}

fn clients(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for (label, kind) in [("app=tour", "pod"), ("app=tour-host", "host pod")] {
        let template = r#"jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}"#;
        for line in cluster.kubectl(&["get", "pods", "-l", label, "-o", template])?.lines() {
            let (name, node) = line.split_once(' ').context("a pod without a node")?;
            clients.push(Client { name: name.to_owned(), node: node.to_owned(), kind });
        }
    }
    for node in cluster.nodes()? {
        clients.push(Client { name: node.clone(), node, kind: "node" });
    }
    Ok(clients)
}

impl Client {
    /// What the client can ask by, each with the shell command of one request.
    fn ways(&self, addresses: &Addresses) -> [(&'static str, String); 3] {
        let Addresses { tour, dns } = addresses;
        let http = |host: &str| format!("curl -sS -m 3 http://{host}/hostname");
        let by_name = if self.kind == "node" {
            // A node's resolver does not know the cluster's names: it is asked by hand.
            format!(
                "vip=$({} | od -An -v -tu1 | tr -s '\\n ' ' ' | awk '{{print $(NF-3)\".\"$(NF-2)\".\"$(NF-1)\".\"$NF}}'); {}",
                datagram(&format!("printf '{}'", dns_query(NAME)), dns, 53),
                http("$vip")
            )
        } else {
            http(NAME)
        };
        [("TCP", http(tour)), ("UDP", datagram("echo hostname", tour, 81)), ("name", by_name)]
    }

    /// Asks, shows who answered, and returns how many requests were not answered.
    fn ask(&self, cluster: &Cluster, way: &str, request: &str) -> usize {
        let script = format!("for i in $(seq {REQUESTS}); do echo \"=$({request})\"; done 2>&1");
        let words = ["bash", "-c", &script];
        let answer = if self.kind == "node" {
            cluster::node_exec(&self.name, &words)
        } else {
            cluster.exec(&self.name, &words)
        };
        let output = answer.unwrap_or_else(|error| format!("{error:#}"));
        let mut answers = BTreeMap::<&str, usize>::new();
        for name in output.lines().filter_map(|line| line.strip_prefix('=')) {
            if !name.is_empty() {
                *answers.entry(name).or_default() += 1;
            }
        }
        let unanswered = REQUESTS.saturating_sub(answers.values().sum());
        let mut line = format!("{:<10} {:<22} {way:<5}", self.kind, self.node);
        for (name, count) in answers {
            let _ = write!(line, " {name}:{count}");
        }
        if unanswered > 0 {
            let complaint = output.lines().find(|line| !line.starts_with('=')).unwrap_or("");
            let _ = write!(line, " NOT ANSWERED: {unanswered} {complaint}");
        }
        println!("{line}");
        unanswered
    }
}

/// A shell command that sends what `source` prints in one datagram and prints the first reply.
fn datagram(source: &str, host: &str, port: u16) -> String {
    format!(
        "exec 3<>/dev/udp/{host}/{port}; {source} >&3; timeout 3 dd bs=1500 count=1 status=none <&3"
    )
}

/// A DNS query for the IPv4 address of a name, as escapes for printf. The answer's last four bytes
/// are the address.
fn dns_query(name: &str) -> String {
    let mut bytes = vec![0x64, 0x70, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes.iter().fold(String::new(), |mut escapes, byte| {
        let _ = write!(escapes, "\\x{byte:02x}");
        escapes
    })
}

#[cfg(test)]
mod tests {
    use super::dns_query;

    #[test]
    fn queries_carry_labels_type_and_class() {
        let query = dns_query("a.bc");
        assert!(query.starts_with("\\x64\\x70\\x01\\x00\\x00\\x01"));
        assert!(query.ends_with("\\x01\\x61\\x02\\x62\\x63\\x00\\x00\\x01\\x00\\x01"));
    }
}
