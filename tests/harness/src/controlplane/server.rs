//! Starting, stopping and restarting the programs.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::process::Process;
use super::{Assets, AuditEvent, Program, audit, readiness};

/// How long one program may take to come up on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Someone who may ask the API server, by token.
#[derive(Clone, Debug)]
pub struct User {
    /// User name, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Bearer token; also names the user's kubeconfig file.
    pub token: String,
}

impl User {
    /// A user that the API server takes for this ServiceAccount: what RBAC
    /// gives to the account, and nothing else.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
            token: format!("{namespace}-{name}"),
        }
    }

    fn admin() -> Self {
        Self {
            name: "admin".to_owned(),
            groups: vec!["system:masters".to_owned()],
            token: "admin".to_owned(),
        }
    }
}

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Users beside the admin.
    pub users: Vec<User>,
    /// Whether every write is recorded ([`ControlPlane::audit`]).
    pub audit: bool,
    /// Value of kube-controller-manager's `--controllers`; `None` starts no
    /// controller manager, so that fixtures whose owners do not exist stay.
    pub controllers: Option<String>,
    /// Further flags for kube-apiserver.
    pub apiserver_flags: Vec<String>,
}

/// A running control plane; dropped, it is gone with all its files.
#[derive(Debug)]
pub struct ControlPlane {
    assets: Assets,
    options: Options,
    api_port: u16,
    etcd_port: u16,
    // In the order in which they end.
    controllers: Option<Process>,
    apiserver: Option<Process>,
    _etcd: Process,
    directory: TempDir,
    _lock: File,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready.
    pub fn start(assets: &Assets, options: Options) -> Result<Self> {
        let (directory, lock) = private_directory()?;
        let [etcd_port, peer_port, api_port] = free_ports()?;
        let etcd = start_etcd(assets, directory.path(), etcd_port, peer_port)?;
        let mut plane = Self {
            assets: assets.clone(),
            options,
            api_port,
            etcd_port,
            controllers: None,
            apiserver: None,
            _etcd: etcd,
            directory,
            _lock: lock,
        };
        plane.write_tokens()?;
        plane.start_apiserver()?;
        if let Some(controllers) = plane.options.controllers.clone() {
            plane.start_controllers(&controllers)?;
        }
        Ok(plane)
    }

    /// Kubeconfig of the admin.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig(&User::admin())
    }

    /// Kubeconfig of one of the users given in the options.
    pub fn kubeconfig(&self, user: &User) -> PathBuf {
        self.directory
            .path()
            .join(format!("{}.kubeconfig", user.token))
    }

    /// The API server's TCP port on loopback; a restart keeps it.
    pub fn api_port(&self) -> u16 {
        self.api_port
    }

    /// Every write that the API server has answered so far, oldest first.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        ensure!(self.options.audit, "started without the audit log");
        let path = self.directory.path().join("audit.log");
        let log =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(audit::parse(&log))
    }

    /// Kills the API server, as a crash would; its data stay.
    pub fn stop_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Starts the API server on the same port and data, and waits until it is
    /// ready.
    pub fn start_apiserver(&mut self) -> Result<()> {
        if self.apiserver.is_some() {
            return Ok(());
        }
        let mut apiserver = Process::start(
            "kube-apiserver",
            &self.assets.path(Program::ApiServer),
            &self.apiserver_flags()?,
            self.directory.path(),
        )?;
        // The server makes its own certificate when it starts.
        let certificate = self.directory.path().join("apiserver.crt");
        apiserver.wait_until(READY_WITHIN, || certificate.exists())?;
        self.write_kubeconfigs()?;
        let admin = self.admin_kubeconfig();
        apiserver.wait_until(READY_WITHIN, || readiness::is_ready(&admin))?;
        self.apiserver = Some(apiserver);
        Ok(())
    }

    fn apiserver_flags(&self) -> Result<Vec<String>> {
        let at = |file: &str| self.directory.path().join(file).display().to_string();
        // The key pair of the serving certificate also signs tokens of
        // service accounts: one file less to make.
        let key = at("apiserver.key");
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.api_port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", self.directory.path().display()),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            // Pods of fixtures have no ServiceAccount objects.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-account-issuer=https://lastgasp.invalid".to_owned(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
        ];
        if self.options.audit {
            let policy = self.directory.path().join("audit.yaml");
            fs::write(&policy, audit::POLICY).context("cannot write the audit policy")?;
            flags.extend([
                format!("--audit-policy-file={}", policy.display()),
                format!("--audit-log-path={}", at("audit.log")),
                "--audit-log-mode=blocking".to_owned(),
            ]);
        }
        flags.extend(self.options.apiserver_flags.iter().cloned());
        Ok(flags)
    }

    fn start_controllers(&mut self, controllers: &str) -> Result<()> {
        ensure!(
            self.assets.has(Program::ControllerManager),
            "no kube-controller-manager beside the API server; unset KUBEBUILDER_ASSETS to \
             build one"
        );
        let kubeconfig = self.admin_kubeconfig().display().to_string();
        let [port] = free_ports()?;
        let flags = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            format!("--controllers={controllers}"),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!(
                "--cert-dir={}",
                self.directory.path().join("controllers").display()
            ),
        ];
        let mut process = Process::start(
            "kube-controller-manager",
            &self.assets.path(Program::ControllerManager),
            &flags,
            self.directory.path(),
        )?;
        process.wait_until(READY_WITHIN, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })?;
        self.controllers = Some(process);
        Ok(())
    }

    fn users(&self) -> impl Iterator<Item = User> + '_ {
        std::iter::once(User::admin()).chain(self.options.users.iter().cloned())
    }

    fn write_tokens(&self) -> Result<()> {
        let mut csv = String::new();
        for user in self.users() {
            // Token, name, uid, groups.
            let (token, name, groups) = (user.token, user.name, user.groups.join(","));
            let _ = writeln!(csv, "{token},{name},{name},\"{groups}\"");
        }
        fs::write(self.directory.path().join("tokens.csv"), csv).context("cannot write tokens")
    }

    fn write_kubeconfigs(&self) -> Result<()> {
        let ca = self.directory.path().join("apiserver.crt");
        for user in self.users() {
            let config = serde_json::json!({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {
                    "server": format!("https://127.0.0.1:{}", self.api_port),
                    "certificate-authority": ca,
                }}],
                "users": [{"name": "test", "user": {"token": user.token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            });
            let path = self.kubeconfig(&user);
            fs::write(&path, config.to_string())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// A directory of our own, and the lock that says that it is in use. Removes
/// those of processes that ended without a chance to do so.
fn private_directory() -> Result<(TempDir, File)> {
    const PREFIX: &str = "lastgasp-controlplane-";
    const LOCK: &str = "lock";
    for entry in fs::read_dir(env::temp_dir())
        .context("cannot read the directory for temporary files")?
        .flatten()
    {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let lock = ours.then(|| File::open(entry.path().join(LOCK)).ok());
        if lock.flatten().is_some_and(|l| l.try_lock().is_ok()) {
            // Another process may do the same at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let directory = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir()
        .context("cannot make a directory for the control plane")?;
    let unnamed = directory.path().join("unlocked");
    let lock = File::create(&unnamed).context("cannot make a lock file")?;
    lock.lock().context("cannot lock a new file")?;
    // Locked before it has the name that others look for.
    fs::rename(&unnamed, directory.path().join(LOCK)).context("cannot name the lock file")?;
    Ok((directory, lock))
}

fn start_etcd(assets: &Assets, directory: &Path, port: u16, peer_port: u16) -> Result<Process> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let flags = [
        format!("--data-dir={}", directory.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // The data need not survive the machine.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let mut etcd = Process::start("etcd", &assets.path(Program::Etcd), &flags, directory)?;
    etcd.wait_until(READY_WITHIN, || etcd_healthy(port))?;
    Ok(etcd)
}

fn etcd_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

/// Ports that were free a moment ago, all different.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
        *port = listener
            .local_addr()
            .context("a port without number")?
            .port();
        held.push(listener);
    }
    Ok(ports)
}
