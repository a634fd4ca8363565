//! `strewn access inspect` and `api-key`.

use super::super::AccessArg;
use crate::config;
use crate::error::Outcome;
use crate::output;
use serde_json::{Value, json};
use strewn_engine::grant::{AccessGrant, Actions, Caveat, Opens};

/// Show what a grant allows and opens, without its secrets
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// A file or a saved name; without it the default grant
    grant: Option<String>,
    #[command(flatten)]
    access: AccessArg,
    /// JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) fn run(self) -> Outcome {
        let grant = config::load_access(self.grant.as_deref().or(self.access.access.as_deref()))?;
        let described = describe(&grant);
        if self.json {
            return output::json(&described);
        }
        for (name, value) in described.as_object().into_iter().flatten() {
            match value {
                Value::Array(values) => {
                    let words: Vec<String> = values.iter().map(plain).collect();
                    output::line(format_args!("{name:12} {}", words.join(", ")))?;
                }
                value => output::line(format_args!("{name:12} {}", plain(value)))?,
            }
        }
        Ok(())
    }
}

/// Print the API key of a grant: a secret that names rights but opens nothing
#[derive(Debug, clap::Args)]
pub(crate) struct ApiKey {
    #[command(flatten)]
    access: AccessArg,
}

impl ApiKey {
    pub(crate) fn run(self) -> Outcome {
        let grant = config::load_access(self.access.access.as_deref())?;
        output::line(encode_api_key(&grant.api_key))
    }
}

/// An API key as text.
pub(crate) fn encode_api_key(key: &strewn_engine::grant::ApiKey) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&key.serialize())
}

fn describe(grant: &AccessGrant) -> Value {
    let shown = grant.inspect();
    let mut rights = Actions::ALL;
    let mut restrictions = Vec::new();
    for caveat in &shown.caveats {
        match caveat {
            Some(caveat) => {
                rights = rights.without(caveat.disallow);
                restrictions.extend(describe_caveat(caveat));
            }
            None => {
                rights = Actions::NONE;
                restrictions.push("a restriction of newer software: satellites refuse this grant".to_owned());
            }
        }
    }
    json!({
        "satellite": shown.satellite,
        "api_key": shown.api_key.to_string(),
        "rights": names(rights),
        "restrictions": restrictions,
        "opens": shown.opens.iter().map(describe_opens).collect::<Vec<_>>(),
    })
}

fn names(rights: Actions) -> Vec<&'static str> {
    let all = [(rights.read, "read"), (rights.write, "write"), (rights.list, "list"), (rights.delete, "delete")];
    all.iter().filter(|(held, _)| *held).map(|(_, name)| *name).collect()
}

fn describe_caveat(caveat: &Caveat) -> Vec<String> {
    let time = |time: &strewn_engine::bucket::Timestamp| {
        jiff::Timestamp::from_second(time.seconds).map_or_else(|_| time.seconds.to_string(), |at| at.to_string())
    };
    let mut said = Vec::new();
    said.extend(caveat.not_before.iter().map(|at| format!("not before {}", time(at))));
    said.extend(caveat.not_after.iter().map(|at| format!("not after {}", time(at))));
    said.extend(caveat.max_ttl.iter().map(|ttl| format!("objects expire within {} s", ttl.as_secs())));
    if let Some(subtrees) = &caveat.subtrees {
        let inodes: Vec<String> = subtrees.iter().map(|subtree| subtree.inode.to_string()).collect();
        said.push(format!("only below inode {}", inodes.join(" or ")));
    }
    said
}

fn describe_opens(opens: &Opens) -> Value {
    match opens {
        Opens::EveryBucket => json!("every bucket of its passphrase"),
        Opens::Subtree { bucket_name, path, .. } => json!(format!("strewn://{bucket_name}/{path}")),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
