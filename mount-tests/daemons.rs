//! A network of separate processes, as it is spread over machines: made with the commands an operator types.

use crate::harness::{assert_same_tree, fail, program, run, sh, unmount_below, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

/// How long a daemon may take to say something: far longer than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a daemon that nobody has read yet.
const LINES: usize = 100;

/// A satellite's or node's process. Dropping it kills it.
struct Daemon {
    process: Child,
    lines: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Daemon {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let stderr = std::fs::File::create(&log).expect("a log");
        let mut process = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("it starts");
        let stdout = BufReader::new(process.stdout.take().expect("it was piped"));
        let (send, lines) = mpsc::sync_channel(LINES);
        // Ends with the process or with whoever reads.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { process, lines, log }
    }

    /// The next line on standard output.
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}: {}", self.said()))
    }

    /// What it said on standard error.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it can be signalled");
    }

    fn kill(mut self) {
        self.signal(Signal::KILL);
        self.process.wait().expect("it ends");
    }

    /// Ends it in order.
    #[track_caller]
    fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A satellite for five nodes at 2/3/4/5, and what belongs to it.
struct Network {
    dir: TempDir,
    satellite: Option<Daemon>,
    /// With its peer id.
    address: String,
    quic: bool,
}

/// Networks made by this process.
static NETWORKS: AtomicU8 = AtomicU8::new(1);

impl Network {
    /// A running satellite without nodes.
    fn new(quic: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("strewn-test-").tempdir().expect("a temporary directory");
        let mut network = Self { dir, satellite: None, address: String::new(), quic };
        // A loopback address of its own: the port is the same after every start, and nobody else's.
        let [.., a, b] = std::process::id().to_be_bytes();
        let ip = format!("127.{}.{b}.{}", a % 200 + 1, NETWORKS.fetch_add(1, Ordering::SeqCst));
        let listen = if quic { format!("/ip4/{ip}/udp/7777/quic-v1") } else { format!("/ip4/{ip}/tcp/7777") };
        run(network.satellite_command("init", &["--listen", &listen, "--redundancy", "2/3/4/5", "--one-network"]));
        network.start_satellite();
        network
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn strewn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = program(Path::new(env!("CARGO_BIN_EXE_strewn")), self.dir.path());
        command.args(arguments).env("STREWN_ACCESS", self.path("grant"));
        command
    }

    fn satellite_command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut strewn = self.strewn(["satellite", command, "--data"]);
        strewn.arg(self.path("satellite")).args(arguments);
        strewn
    }

    #[track_caller]
    fn start_satellite(&mut self) {
        let daemon = Daemon::start(self.satellite_command("run", &[]), self.path("satellite.log"));
        let address = daemon.line().strip_prefix("ready ").expect("it is ready").to_owned();
        assert!(self.address.is_empty() || self.address == address, "grants name the address");
        (self.address, self.satellite) = (address, Some(daemon));
    }

    fn kill_satellite(&mut self) {
        self.satellite.take().expect("it runs").kill();
    }

    /// A file that holds a new ticket.
    fn ticket(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, run(self.satellite_command("ticket", &[]))).expect("a file");
        path
    }

    fn node_command(&self, command: &str, name: &str) -> Command {
        let mut strewn = self.strewn(["node", command, "--data"]);
        strewn.arg(self.path(name));
        strewn
    }

    fn init_node(&self, name: &str, ticket: &Path) {
        let mut init = self.node_command("init", name);
        init.args(["--satellite", &self.address, "--capacity", "1G", "--ticket-file"]).arg(ticket);
        let (listen, channel) = match self.quic {
            true => ("/ip4/127.0.0.1/udp/0/quic-v1", "none"),
            false => ("/ip4/127.0.0.1/tcp/0", "127.0.0.1:0"),
        };
        run(init.args(["--listen", listen, "--channel", channel]));
    }

    fn run_node(&self, name: &str) -> Daemon {
        Daemon::start(self.node_command("run", name), self.path(&format!("{name}.log")))
    }

    /// Nodes that have joined.
    #[track_caller]
    fn nodes(&self, count: usize) -> Vec<Daemon> {
        let names: Vec<String> = (0..count).map(|number| format!("node-{number}")).collect();
        names.iter().for_each(|name| self.init_node(name, &self.ticket("ticket")));
        let nodes: Vec<Daemon> = names.iter().map(|name| self.run_node(name)).collect();
        nodes.iter().for_each(|node| assert_eq!(node.line(), "ready"));
        nodes
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&run(self.satellite_command("status", &["--json"]))).expect("JSON")
    }

    /// A grant in `grant`, and the bucket `drive`.
    fn make_bucket(&self) {
        let (key, passphrase) = (self.path("api-key"), self.path("passphrase"));
        std::fs::write(&key, run(self.satellite_command("api-key", &[]))).expect("a file");
        std::fs::write(&passphrase, "correct horse battery staple\n").expect("a file");
        let mut create = self.strewn(["access", "create", "--satellite", &self.address, "--api-key-file"]);
        create.arg(key).arg("--passphrase-file").arg(passphrase).arg("--export-to").arg(self.path("grant"));
        run(&mut create);
        run(self.strewn(["mb", "strewn://drive", "--segment-size", "1M"]));
    }

    fn mount(&self, name: &str) -> PathBuf {
        let mountpoint = self.path(name);
        std::fs::create_dir(&mountpoint).expect("a mountpoint");
        let mut mount = self.strewn(["mount", "drive", "--detach", "--cache-dir"]);
        run(mount.arg(self.path(&format!("{name}-cache"))).arg(&mountpoint));
        mountpoint
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        unmount_below(self.dir.path());
    }
}

/// Satellite and nodes are killed and come back while a drive is in use; what it held is read through another one.
fn lives_through_the_death_of_its_parts(quic: bool) {
    let mut network = Network::new(quic);
    let mut nodes = network.nodes(5);
    network.make_bucket();
    let original = network.path("original");
    std::fs::create_dir(&original).unwrap();
    sh(&original, "head -c 3000000 /dev/urandom > big; mkdir d; for i in $(seq 20); do echo $i > d/$i; done");
    run(network.strewn(["cp", "-r"]).arg(&original).arg("strewn://drive/copied"));
    let drive = network.mount("drive");
    assert_same_tree(&original, &drive.join("copied"));
    // What is in a directory must be known for names to be made in it alone.
    assert_eq!(sh(&drive, "ls"), "copied\n");

    network.kill_satellite();
    sh(&drive, "cp -a ../original by-mount; cat copied/d/7");
    network.start_satellite();
    assert_eq!(network.status()["online"], 5, "nodes are not forgotten");
    run(network.strewn(["sync"]).arg(&drive));

    // All but k.
    nodes.drain(..3).for_each(Daemon::kill);
    network.kill_satellite();
    network.start_satellite();
    let other = network.mount("other");
    for copy in ["copied", "by-mount"] {
        assert_same_tree(&original, &other.join(copy));
    }
    let back = network.path("back");
    run(network.strewn(["cp", "-r", "strewn://drive/by-mount"]).arg(&back));
    assert_same_tree(&original, &back);

    nodes.extend((0..3).map(|number| network.run_node(&format!("node-{number}"))));
    nodes[2..].iter().for_each(|node| assert_eq!(node.line(), "ready"));
    sh(&other, "echo again > again");
    run(network.strewn(["umount"]).arg(&other));
    run(network.strewn(["umount"]).arg(&drive));
    assert_eq!(run(network.strewn(["cat", "strewn://drive/again"])), "again\n");
    nodes.into_iter().for_each(Daemon::stop);
    network.satellite.take().expect("it runs").stop();
}

#[test]
fn a_network_of_processes_lives_through_the_death_of_its_parts() {
    lives_through_the_death_of_its_parts(false);
}

#[test]
fn so_does_one_that_speaks_quic_alone() {
    lives_through_the_death_of_its_parts(true);
}

#[test]
fn a_ticket_is_for_one_node_which_needs_it_once() {
    let network = Network::new(false);
    let ticket = network.ticket("ticket");
    network.init_node("first", &ticket);
    network.init_node("second", &ticket);
    let first = network.run_node("first");
    assert_eq!(first.line(), "ready");

    let refused = fail(network.node_command("run", "second"));
    assert!(refused.contains("refuses this node") && refused.contains("used by another node"), "{refused}");
    assert!(refused.contains("hint: ") && refused.contains("--ticket-file"), "{refused}");
    let mut again = network.node_command("run", "second");
    again.arg("--ticket-file").arg(network.ticket("another"));
    let second = Daemon::start(again, network.path("again.log"));
    assert_eq!(second.line(), "ready");

    for (name, node) in [("first", first), ("second", second)] {
        node.stop();
        assert_eq!(network.run_node(name).line(), "ready", "{name} is a member and needs no ticket");
    }
    assert_eq!(network.status()["nodes"], 2);
    std::fs::write(&ticket, "\n").unwrap();
    let mut empty = network.node_command("run", "second");
    assert!(fail(empty.arg("--ticket-file").arg(&ticket)).contains("no ticket"));
}

#[test]
fn a_node_waits_for_its_satellite() {
    let mut network = Network::new(false);
    network.init_node("node", &network.ticket("ticket"));
    network.kill_satellite();
    let node = network.run_node("node");
    wait_until("it says so", || node.said().contains("not checked in, trying again: network unreachable"));
    network.start_satellite();
    assert_eq!(node.line(), "ready");
    node.stop();
    // While it waits it can be stopped, too.
    network.kill_satellite();
    let node = network.run_node("node");
    wait_until("it says so", || node.said().contains("not checked in"));
    node.stop();
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let network = Network::new(false);
    let says = |mut command: Command, words: &[&str]| {
        let error = fail(&mut command);
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    };
    says(network.satellite_command("init", &[]), &["a satellite in", "already"]);
    says(network.satellite_command("run", &[]), &["in use by another satellite"]);
    let of = |command: &str, arguments: &[&str], data: &str| {
        let mut strewn = network.strewn(["satellite", command, "--data"]);
        strewn.arg(network.path(data)).args(arguments);
        strewn
    };
    says(of("run", &[], "nothing"), &["no satellite in", "satellite init"]);
    says(of("ticket", &[], "nothing"), &["is the satellite running?"]);
    says(of("init", &["--listen", "7777"], "bad"), &["--listen", "/ip4/0.0.0.0/tcp/7777"]);
    let taken = network.address.split("/p2p/").next().unwrap();
    run(of("init", &["--listen", taken], "second"));
    says(of("run", &[], "second"), &[taken, "in use"]);

    let ticket = network.ticket("ticket");
    network.init_node("node", &ticket);
    says(network.node_command("run", "nothing"), &["no storage node in", "node init"]);
    let init = |name: &str, satellite: &str, arguments: &[&str]| {
        let mut init = network.node_command("init", name);
        init.args(["--satellite", satellite, "--ticket-file"]).arg(&ticket).args(arguments);
        init
    };
    let address = network.address.as_str();
    says(init("node", address, &["--capacity", "1G"]), &["a storage node in", "already"]);
    says(init("bad", taken, &["--capacity", "1G"]), &["--satellite", "satellite run"]);
    says(init("bad", address, &["--capacity", "0"]), &["--capacity", "too little"]);
    says(init("bad", address, &["--capacity", "1000000T"]), &["--capacity", "more than the disk has"]);
    says(init("bad", address, &["--capacity", "much"]), &["no size"]);
    says(init("bad", address, &["--capacity", "1G", "--channel", "here"]), &["--channel", "IP:PORT"]);
    says(init("bad", address, &["--capacity", "1G", "--listen", "/ip4/1.2.3.4"]), &["--listen"]);
    says(init("bad", address, &["--capacity", "1G", "--announce", "example.org:1"]), &["--announce"]);
    run(init("bad", address, &["--capacity", "1G", "--listen", taken, "--channel", "none"]));
    says(network.node_command("run", "bad"), &[taken, "in use"]);
    let node = network.run_node("node");
    assert_eq!(node.line(), "ready");
    says(network.node_command("run", "node"), &["used by another process"]);
}
