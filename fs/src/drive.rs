//! A volume served to the kernel.

use crate::Volume;
use crate::fuse::{Options, Session};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A drive in use.
///
/// It ends when the kernel unmounts it, by whomever; nothing is drained or closed here. So a program mounts, starts a drive,
/// on a signal drains the cache, unmounts, [waits](Self::wait) for the drive and closes the cache.
pub struct Drive {
    volume: Arc<Volume>,
    session: Session,
    ended: oneshot::Receiver<()>,
}

impl Drive {
    /// Serves `volume` on a mounted FUSE device. Requests are read on threads of their own and run on `runtime`, which needs
    /// timers. Returns once the kernel has shaken hands, so the drive is usable. Errors: the device is not mounted, or the
    /// kernel's FUSE is too old.
    pub fn start(volume: Arc<Volume>, device: OwnedFd, runtime: Handle, options: Options) -> io::Result<Self> {
        let (tell, ended) = oneshot::channel();
        let session = Session::start(volume.clone(), device, runtime, options, move || {
            // nobody waits if the drive was dropped
            let _ = tell.send(());
        })?;
        Ok(Self { volume, session, ended })
    }

    /// The volume.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Waits until the kernel has let go of the drive. May be dropped and called again.
    pub async fn unmounted(&mut self) {
        // an error means that the sender is gone: the thread ended without a word, which is an end too
        let _ = (&mut self.ended).await;
    }

    /// Waits until the kernel has let go of the drive, and says how serving it ended.
    pub async fn wait(mut self) -> io::Result<()> {
        self.unmounted().await;
        let session = self.session;
        let served = tokio::task::spawn_blocking(move || session.join()).await;
        self.volume.forget_all();
        served.map_err(io::Error::other)?
    }
}
