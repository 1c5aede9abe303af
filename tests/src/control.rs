//! The control plane: etcd, kube-apiserver and kube-controller-manager in the control-plane node.

use crate::space::Space;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

/// Port of the API server.
pub const API_PORT: u16 = 6443;
/// Port of etcd, on the loopback address for the API server and on the node's for those who fill it.
pub const ETCD_PORT: u16 = 2379;
/// The user that [`Identity::Proxy`] logs in as.
pub const PROXY_USER: &str = "system:kube-proxy";
/// Controllers that a cluster without kubelets and schedulers needs.
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,\
                           namespace-controller,service-cidr-controller";

/// The folder with the programs of the control plane, from `DATAPATH_CONTROL_PLANE`.
pub fn programs() -> Result<PathBuf> {
    let folder = env::var_os("DATAPATH_CONTROL_PLANE").map(PathBuf::from).context(
        "DATAPATH_CONTROL_PLANE must name the folder with etcd, kube-apiserver and \
         kube-controller-manager (cargo xtask builds them and sets it)",
    )?;
    for program in ["etcd", "kube-apiserver", "kube-controller-manager"] {
        let path = folder.join(program);
        ensure!(path.exists(), "{} does not exist", path.display());
    }
    Ok(folder)
}

/// The running control plane and the files that clients need.
#[derive(Debug)]
pub struct ControlPlane {
    programs: PathBuf,
    folder: PathBuf,
    cgroup: PathBuf,
    ranges: String,
    address: std::net::Ipv4Addr,
    children: Vec<(&'static str, Child)>,
}

/// Who can log in, with the group or user name that gives the rights.
#[derive(Clone, Copy, Debug)]
pub enum Identity {
    /// May do everything.
    Admin,
    /// May do what kube-proxy may: bound to the role `system:node-proxier`; and what our manifests
    /// give the agents.
    Proxy,
}

impl Identity {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Proxy => "proxy",
        }
    }
}

impl ControlPlane {
    /// Writes the credentials and starts etcd and the API server; they become ready later.
    pub fn start(
        space: &Space,
        folder: &Path,
        cgroup: &Path,
        address: std::net::Ipv4Addr,
        ranges: &str,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        fs::create_dir_all(cgroup)?;
        let mut tokens = String::new();
        for (identity, user, groups) in [
            (Identity::Admin, "lab-admin", "system:masters"),
            (Identity::Proxy, PROXY_USER, "lab:proxies"),
        ] {
            let token = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
            tokens.extend([&token, ",", user, ",", user, ",\"", groups, "\"\n"]);
            let config = kubeconfig(folder, address, &token);
            fs::write(kubeconfig_path(folder, identity), config.to_string())?;
        }
        fs::write(folder.join("tokens.csv"), tokens)?;
        let mut control = Self {
            programs: programs()?,
            folder: folder.to_owned(),
            cgroup: cgroup.to_owned(),
            ranges: ranges.to_owned(),
            address,
            children: Vec::new(),
        };
        control.start_etcd(space)?;
        control.start_api_server(space)?;
        Ok(control)
    }

    /// The file with address and credentials of an identity.
    pub fn kubeconfig(&self, identity: Identity) -> PathBuf {
        kubeconfig_path(&self.folder, identity)
    }

    fn start_etcd(&mut self, space: &Space) -> Result<()> {
        let data = self.folder.join("etcd");
        let local = format!("http://127.0.0.1:{ETCD_PORT}");
        self.spawn(
            space,
            "etcd",
            &[
                &format!("--data-dir={}", data.display()),
                &format!("--listen-client-urls={local},http://{}:{ETCD_PORT}", self.address),
                &format!("--advertise-client-urls={local}"),
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
    }

    /// Starts the API server; again after [`ControlPlane::stop_api_server`].
    pub fn start_api_server(&mut self, space: &Space) -> Result<()> {
        let folder = self.folder.display().to_string();
        // The serving certificate is made by the server itself at its first start. Its key also
        // signs service account tokens, which nothing here uses but the server insists on.
        self.spawn(
            space,
            "kube-apiserver",
            &[
                &format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
                &format!("--cert-dir={folder}/pki"),
                &format!("--secure-port={API_PORT}"),
                &format!("--advertise-address={}", self.address),
                &format!("--service-cluster-ip-range={}", self.ranges.clone()),
                &format!("--token-auth-file={folder}/tokens.csv"),
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-signing-key-file={folder}/pki/apiserver.key"),
                &format!("--service-account-key-file={folder}/pki/apiserver.key"),
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
                "--enable-priority-and-fairness=false",
                "--max-requests-inflight=0",
                "--max-mutating-requests-inflight=0",
                "--allow-privileged",
                "--profiling=false",
            ],
        )
    }

    /// Starts the controllers; the API server must be ready.
    pub fn start_controllers(&mut self, space: &Space) -> Result<()> {
        let config = self.kubeconfig(Identity::Admin);
        self.spawn(
            space,
            "kube-controller-manager",
            &[
                &format!("--kubeconfig={}", config.display()),
                &format!("--authentication-kubeconfig={}", config.display()),
                &format!("--authorization-kubeconfig={}", config.display()),
                &format!("--cert-dir={}", self.folder.join("kcm").display()),
                &format!("--controllers={CONTROLLERS}"),
                "--leader-elect=false",
                "--concurrent-service-endpoint-syncs=10",
                "--kube-api-qps=2000",
                "--kube-api-burst=4000",
                "--profiling=false",
            ],
        )
    }

    /// Whether the API server was started and not killed.
    pub fn has_api_server(&self) -> bool {
        self.children.iter().any(|(name, _)| *name == "kube-apiserver")
    }

    /// Kills the API server.
    pub fn stop_api_server(&mut self) -> Result<()> {
        let index = self.children.iter().position(|(name, _)| *name == "kube-apiserver");
        let (_, mut child) = self.children.remove(index.context("no API server runs")?);
        child.kill().context("kill the API server")?;
        child.wait().context("wait for the API server")?;
        Ok(())
    }

    /// Fails if one of the processes has ended.
    pub fn check(&mut self) -> Result<()> {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(self.folder.join(format!("{name}.log")))?;
                let tail: Vec<_> = log.lines().rev().take(5).collect();
                anyhow::bail!("{name} ended ({status}): {tail:#?}");
            }
        }
        Ok(())
    }

    fn spawn(&mut self, space: &Space, name: &'static str, args: &[&str]) -> Result<()> {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.folder.join(format!("{name}.log")))?;
        let child = space
            .command_in(&self.cgroup, self.programs.join(name))?
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        self.children.push((name, child));
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn kubeconfig_path(folder: &Path, identity: Identity) -> PathBuf {
    folder.join(format!("{}.kubeconfig", identity.name()))
}

fn kubeconfig(folder: &Path, address: std::net::Ipv4Addr, token: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{address}:{API_PORT}"),
            "certificate-authority": folder.join("pki/apiserver.crt"),
        }}],
        "users": [{"name": "lab", "user": {"token": token}}],
    })
}
