//! PostgreSQL in a directory of the drive: a cluster is made, worked in, cut off, and read back from the network alone.

use crate::harness::{Drive, run, sh};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs of the server, which Debian keeps out of the way.
fn programs() -> PathBuf {
    PathBuf::from(sh(Path::new("/"), "ls -d /usr/lib/postgresql/*/bin | tail -n 1").trim())
}

/// A server that keeps its cluster on the drive. Root may not run it.
struct Server<'d> {
    drive: &'d Drive,
    programs: PathBuf,
}

impl Server<'_> {
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let (cluster, sockets) = (self.drive.path().join("cluster"), self.drive.beside("sockets"));
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(self.programs.join(program));
        command.env("PGDATA", &cluster).env("PGHOST", &sockets).env("PGDATABASE", "postgres").env("LC_ALL", "C");
        run(command.args(arguments).current_dir("/"))
    }

    fn start(&self) {
        let options =
            format!("-c listen_addresses= -c unix_socket_directories={}", self.drive.beside("sockets").display());
        let log = self.drive.beside("sockets").join("log");
        self.run("pg_ctl", &["start", "-w", "-o", &options, "-l", log.to_str().unwrap()]);
    }

    fn balance(&self) -> String {
        let sums = "select (select sum(bbalance) from pgbench_branches) || ' ' || (select sum(abalance) from pgbench_accounts) \
                    || ' ' || (select count(*) from pgbench_history)";
        self.run("psql", &["-Atc", sums])
    }
}

#[test]
fn postgresql_keeps_what_it_committed() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: the server runs as its own user");
    let drive = Drive::network();
    drive.mount_drive(&["-o", "allow_other"]);
    let server = Server { drive: &drive, programs: programs() };
    let beside = drive.path().parent().unwrap();
    sh(beside, "chmod 755 .; mkdir sockets mnt/cluster; chown postgres: sockets mnt/cluster; chmod 700 mnt/cluster");
    server.run("initdb", &["-A", "trust", "--data-checksums"]);
    server.start();
    server.run("pgbench", &["-i", "-q", "-s", "1"]);
    server.run("pgbench", &["-n", "-c", "4", "-t", "50"]);
    let committed = server.balance();
    assert!(committed.ends_with(" 200\n"), "{committed}");

    // A server that is stopped in the middle recovers from its log.
    server.run("pg_ctl", &["stop", "-m", "immediate"]);
    server.start();
    assert_eq!(server.balance(), committed);
    server.run("pg_ctl", &["stop", "-m", "fast"]);

    run(drive.strewn(["umount"]).arg(drive.path()));
    std::fs::remove_dir_all(drive.beside("cache")).unwrap();
    [1, 4, 8].into_iter().for_each(|node| drive.node(node, &["stop"]));
    drive.mount_drive(&["-o", "allow_other"]);
    server.run("pg_checksums", &["--check"]);
    server.start();
    assert_eq!(server.balance(), committed);
    server.run("pg_ctl", &["stop", "-m", "fast"]);
}
