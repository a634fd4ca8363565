//! Who asks: sessions of API keys, and their revocation.

use super::{Caller, Satellite, invalid};
use crate::metabase::{Error, access};
use std::sync::Arc;
use strewn_engine::bucket;
use strewn_engine::grant::{ApiKey, Tail};
use strewn_wire::satellite::{Hello, Reply, VERSION};

/// An uplink's stream: the key it opened with, known to be genuine. Time and revocation are judged anew per request.
#[derive(Debug, Clone)]
pub struct Session {
    key: ApiKey,
    tails: Arc<[Tail]>,
}

impl Satellite {
    /// Opens a session, if the key is genuine and may do anything now.
    pub fn open_session(&self, hello: &Hello) -> Result<Session, bucket::Error> {
        if hello.version != VERSION {
            let what = format!("protocol version {} is not spoken here, only {VERSION}", hello.version);
            return Err(bucket::Error::Invalid(what));
        }
        let session = self.session(&hello.api_key)?;
        self.authorize(&session)?;
        Ok(session)
    }

    fn session(&self, api_key: &[u8]) -> Result<Session, bucket::Error> {
        let forbidden = |what: String| bucket::Error::Forbidden(what);
        let key = ApiKey::parse(api_key).map_err(|error| forbidden(error.to_string()))?;
        let known = self.inner.keys.read().contains(&key.id());
        let secret = self.inner.identity.api_key_secret(key.id());
        let tails = key.tails(&secret).filter(|_| known);
        let tails = tails.ok_or_else(|| forbidden("this satellite did not make the API key".to_owned()))?;
        Ok(Session { key, tails: tails.into() })
    }

    pub(super) fn authorize(&self, session: &Session) -> Result<Caller, bucket::Error> {
        let forbidden = |what: String| bucket::Error::Forbidden(what);
        let dead = {
            let revoked = self.inner.revoked.read();
            session.tails.iter().any(|tail| revoked.contains(tail))
        };
        if dead {
            return Err(forbidden("the grant was revoked".to_owned()));
        }
        let permissions = session.key.check(self.inner.clock.now()).map_err(|denied| forbidden(denied.to_string()))?;
        Ok(Caller { api_key: session.key.id(), tails: session.tails.clone(), permissions })
    }

    /// Kills a key that is the caller's own or was derived from it.
    pub(super) async fn revoke(&self, caller: Caller, api_key: &[u8]) -> Result<Reply, Error> {
        let condemned = self.session(api_key).map_err(|error| invalid(error.to_string()))?;
        let (Some(own), Some(last)) = (caller.tails.last().copied(), condemned.tails.last().copied()) else {
            return Err(invalid("a key without tails"));
        };
        if !condemned.tails.contains(&own) {
            return Err(bucket::Error::Forbidden("only a key derived from one's own can be revoked".to_owned()).into());
        }
        let now = self.seconds();
        self.inner
            .database
            .write(move |connection| {
                access::check_alive(connection, &caller.tails)?;
                access::revoke(connection, last, now)
            })
            .await?;
        self.inner.revoked.write().insert(last);
        Ok(Reply::Done)
    }
}
