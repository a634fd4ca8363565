//! What an operator asks of a running satellite: `strewn satellite status|ticket|api-key`.
//!
//! A Unix socket `operator.sock` in the satellite's directory, for its owner alone; one line of JSON each way.

use super::super::access::encode_api_key;
use super::DataArg;
use crate::control::{Exchange, MAX_LINE, MAX_SOCKET_PATH};
use crate::error::{Context, Failure, Outcome};
use crate::output;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strewn_satellite::Satellite;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

/// Name of the socket.
const SOCKET: &str = "operator.sock";

/// How long a caller may take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Status,
    Ticket,
    ApiKey,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    Done(Value),
    Failed(String),
}

/// Where the socket of a satellite is.
pub(super) fn socket(data: &Path) -> Outcome<PathBuf> {
    let path = data.join(SOCKET);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(
            Failure::new(format!("{} is too long a path for a socket", path.display())).hint("choose a shorter --data")
        );
    }
    Ok(path)
}

/// Answers operators of a running satellite.
pub(super) fn serve(data: &Path, satellite: Satellite) -> Outcome<AbortHandle> {
    let path = socket(data)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context(format_args!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).context(format_args!("listening on {}", path.display()))?;
    let task = tokio::spawn(async move {
        // One after the other: whoever can connect is the operator.
        while let Ok((stream, _)) = listener.accept().await {
            if let Err(error) = answer(stream, &satellite).await {
                tracing::debug!("operator: {error}");
            }
        }
    });
    Ok(task.abort_handle())
}

async fn answer(stream: UnixStream, satellite: &Satellite) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(MAX_LINE));
    tokio::time::timeout(REQUEST_DEADLINE, reader.read_until(b'\n', &mut line)).await??;
    let reply = match serde_json::from_slice(&line) {
        Ok(request) => {
            obey(satellite, request).await.map_or_else(|error| Reply::Failed(error.to_string()), Reply::Done)
        }
        Err(error) => Reply::Failed(format!("not a request: {error}")),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn obey(satellite: &Satellite, request: Request) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    Ok(match request {
        Request::Ticket => json!(satellite.create_ticket().await?),
        Request::ApiKey => json!(encode_api_key(&satellite.create_api_key().await?)),
        Request::Status => {
            let status = satellite.status().await?;
            let nodes = satellite.nodes().await?.into_iter().map(|node| {
                json!({
                    "node": node.node.to_string(), "addresses": node.addresses, "online": node.online, "seen": node.seen,
                    "capacity": node.capacity, "free": node.free, "software": node.software,
                })
            });
            let nodes: Vec<Value> = nodes.collect();
            json!({
                "satellite": status.satellite.to_string(), "nodes": status.nodes, "online": status.online,
                "free": status.free, "buckets": status.buckets, "bytes": status.bytes, "node_list": nodes,
            })
        }
    })
}

fn ask(data: &DataArg, request: &Request) -> Outcome<Value> {
    let path = socket(&data.directory()?)?;
    let mut exchange = Exchange::begin(&path, request)
        .map_err(|failure| failure.hint("is the satellite running? 'strewn satellite run' starts it"))?;
    match exchange.next()? {
        Some(Reply::Done(value)) => Ok(value),
        Some(Reply::Failed(message)) => Err(Failure::new(message)),
        None => Err(Failure::new("the satellite ended before it answered")),
    }
}

/// Make a ticket with which one storage node may join
#[derive(Debug, clap::Args)]
pub(crate) struct Ticket {
    #[command(flatten)]
    data: DataArg,
}

impl Ticket {
    pub(super) fn run(self) -> Outcome {
        print_text(&ask(&self.data, &Request::Ticket)?)
    }
}

/// Make an API key: the right to make buckets, for 'strewn access create'
#[derive(Debug, clap::Args)]
pub(crate) struct ApiKey {
    #[command(flatten)]
    data: DataArg,
}

impl ApiKey {
    pub(super) fn run(self) -> Outcome {
        print_text(&ask(&self.data, &Request::ApiKey)?)
    }
}

/// Show a running satellite and its nodes
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    data: DataArg,
    /// JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> Outcome {
        let status = ask(&self.data, &Request::Status)?;
        if self.json {
            return output::json(&status);
        }
        let number = |value: &Value, name: &str| value[name].as_u64().unwrap_or_default();
        output::line(format_args!("satellite  {}", status["satellite"].as_str().unwrap_or_default()))?;
        let (free, bytes) = (output::bytes(number(&status, "free")), output::bytes(number(&status, "bytes")));
        output::line(format_args!(
            "nodes      {} of {} online, {free} free",
            number(&status, "online"),
            number(&status, "nodes")
        ))?;
        output::line(format_args!("buckets    {}, {bytes}", number(&status, "buckets")))?;
        for node in status["node_list"].as_array().into_iter().flatten() {
            let id = node["node"].as_str().unwrap_or_default();
            let state = if node["online"] == true { "online" } else { "offline" };
            let free = output::bytes(number(node, "free"));
            output::line(format_args!("  {}  {state:8} {free} free", id.get(..16).unwrap_or(id)))?;
        }
        Ok(())
    }
}

fn print_text(value: &Value) -> Outcome {
    output::line(value.as_str().ok_or_else(|| Failure::new("the satellite gave an unexpected answer"))?)
}
