//! The rows of one bucket as a commit sees and changes them.

use super::codec::*;
use super::{Error, lines};
use rusqlite::{Connection, OptionalExtension, Row, params};
use strewn_engine::bucket::plan::{InodeRow, Plan, Rows, RunChange, RunRow};
use strewn_engine::bucket::{EncryptedName, Entry, Extent, Inode, NewRun, RunPlace};
use strewn_engine::content::BLOCK_PLAIN;
use strewn_engine::ids::{ApiKeyId, InodeId, RunId, SegmentId};

/// Columns of an inode, in the order of [`inode_row`].
macro_rules! inode_columns {
    () => {
        "inode, kind, version, nlink, size, generation, record, changed_s, changed_ns, entries_s, entries_ns, children"
    };
}

/// Columns of an extent, in the order of [`extent_row`].
macro_rules! extent_columns {
    () => {
        "offset, length, run, run_length, run_offset, cipher, generation, run_key"
    };
}

/// A bucket within a transaction.
pub(crate) struct Tree<'c> {
    /// The transaction.
    pub(crate) connection: &'c Connection,
    /// The bucket's number.
    pub(crate) bucket: i64,
    /// Its root directory.
    pub(crate) root: InodeId,
    /// The head of the committing key: it may refer to segments that it began.
    pub(crate) api_key: ApiKeyId,
}

impl Rows for Tree<'_> {
    type Error = Error;

    fn root(&self) -> InodeId {
        self.root
    }

    fn entry(&mut self, parent: InodeId, name: &EncryptedName) -> Result<Option<Entry>, Error> {
        let sql = "SELECT child, kind, generation, key FROM entries WHERE bucket = ?1 AND parent = ?2 AND name = ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.bucket, parent.as_bytes(), name.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let (child, kind, key) = (id(row, 0)?, kind(row, 1)?, sealed(row, 2)?);
        Ok(Some(Entry { parent, name: name.clone(), child, kind, key }))
    }

    fn inode(&mut self, inode: InodeId) -> Result<Option<InodeRow>, Error> {
        let sql = concat!("SELECT ", inode_columns!(), " FROM inodes WHERE bucket = ?1 AND inode = ?2");
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.bucket, inode.as_bytes()])?;
        rows.next()?.map(|row| inode_row(row, 0)).transpose()
    }

    fn parent(&mut self, directory: InodeId) -> Result<Option<InodeId>, Error> {
        lines::parent(self.connection, self.bucket, directory)
    }

    fn extents(&mut self, inode: InodeId, from: u64, to: u64) -> Result<Vec<Extent>, Error> {
        extents_between(self.connection, self.bucket, inode, from, to, usize::MAX)
    }

    fn inline_extents(&mut self, inode: InodeId) -> Result<Vec<Extent>, Error> {
        let sql = concat!(
            "SELECT ",
            extent_columns!(),
            " FROM extents WHERE bucket = ?1 AND inode = ?2 AND inline = 1 ORDER BY offset"
        );
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.bucket, inode.as_bytes()])?;
        let mut extents = Vec::new();
        while let Some(row) = rows.next()? {
            extents.push(extent_row(row, 0)?);
        }
        Ok(extents)
    }

    fn windows(&mut self, inode: InodeId) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM tags WHERE bucket = ?1 AND inode = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let count: i64 = statement.query_row(params![self.bucket, inode.as_bytes()], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    fn run(&mut self, run: RunId) -> Result<Option<RunRow>, Error> {
        let sql = "SELECT length, refs, inline IS NULL FROM runs WHERE bucket = ?1 AND run = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.bucket, run.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let (length, references, in_segments) = (number(row, 0)?, number(row, 1)?, row.get(2)?);
        let segments = if in_segments { self.segments_of(run)? } else { Vec::new() };
        Ok(Some(RunRow { length, references, segments }))
    }

    fn segment(&mut self, segment: SegmentId) -> Result<Option<u64>, Error> {
        let sql = "SELECT length FROM segments WHERE bucket = ?1 AND segment = ?2 AND api_key = ?3 AND finished = 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let key = params![self.bucket, segment.as_bytes(), self.api_key.as_bytes()];
        let length: Option<i64> = statement.query_row(key, |row| row.get(0)).optional()?;
        Ok(length.map(i64::unsigned_abs))
    }
}

impl Tree<'_> {
    /// Writes the rows of a plan that was made in this transaction. `now`: seconds since 1970.
    pub(crate) fn apply(&self, plan: &Plan, now: i64) -> Result<(), Error> {
        self.write_inodes(plan)?;
        self.write_entries(plan)?;
        self.write_extents(plan)?;
        self.write_tags(plan)?;
        for (run, change) in &plan.runs {
            self.write_run(*run, change)?;
        }
        let sql = "UPDATE segments SET refs = refs + ?3, idle_since = ?4 WHERE bucket = ?1 AND segment = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        for (segment, change) in &plan.segments {
            statement.execute(params![self.bucket, segment.as_bytes(), change, now])?;
        }
        Ok(())
    }

    fn write_inodes(&self, plan: &Plan) -> Result<(), Error> {
        let mut put = self.connection.prepare_cached(
            "INSERT INTO inodes (bucket, inode, kind, version, nlink, children, size, generation, record, changed_s, \
             changed_ns, entries_s, entries_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
             ON CONFLICT (bucket, inode) DO UPDATE SET version = excluded.version, nlink = excluded.nlink, \
             children = excluded.children, size = excluded.size, generation = excluded.generation, \
             record = excluded.record, changed_s = excluded.changed_s, changed_ns = excluded.changed_ns, \
             entries_s = excluded.entries_s, entries_ns = excluded.entries_ns",
        )?;
        const GONE: [&str; 3] = [
            "DELETE FROM inodes WHERE bucket = ?1 AND inode = ?2",
            "DELETE FROM extents WHERE bucket = ?1 AND inode = ?2",
            "DELETE FROM tags WHERE bucket = ?1 AND inode = ?2",
        ];
        for (inode, row) in &plan.inodes {
            let Some(InodeRow { inode: row, children }) = row else {
                for sql in GONE {
                    self.connection.prepare_cached(sql)?.execute(params![self.bucket, inode.as_bytes()])?;
                }
                continue;
            };
            put.execute(params![
                self.bucket,
                inode.as_bytes(),
                kind_code(row.kind),
                column(row.version),
                row.nlink,
                column(*children),
                column(row.size),
                row.record.generation,
                &row.record.bytes[..],
                row.changed.seconds,
                row.changed.nanos,
                row.entries_changed.seconds,
                row.entries_changed.nanos,
            ])?;
        }
        Ok(())
    }

    fn write_entries(&self, plan: &Plan) -> Result<(), Error> {
        let mut set = self.connection.prepare_cached(
            "INSERT INTO entries (bucket, parent, name, child, kind, generation, key) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT (bucket, parent, name) DO UPDATE SET child = excluded.child, kind = excluded.kind, \
             generation = excluded.generation, key = excluded.key",
        )?;
        let sql = "DELETE FROM entries WHERE bucket = ?1 AND parent = ?2 AND name = ?3";
        let mut clear = self.connection.prepare_cached(sql)?;
        for (parent, name, entry) in &plan.entries {
            match entry {
                None => clear.execute(params![self.bucket, parent.as_bytes(), name.as_bytes()])?,
                Some(entry) => set.execute(params![
                    self.bucket,
                    parent.as_bytes(),
                    name.as_bytes(),
                    entry.child.as_bytes(),
                    kind_code(entry.kind),
                    entry.key.generation,
                    &entry.key.bytes[..],
                ])?,
            };
        }
        Ok(())
    }

    fn write_extents(&self, plan: &Plan) -> Result<(), Error> {
        let sql = "DELETE FROM extents WHERE bucket = ?1 AND inode = ?2 AND offset = ?3";
        let mut clear = self.connection.prepare_cached(sql)?;
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO extents (bucket, inode, offset, length, run, run_length, run_offset, cipher, generation, run_key, \
             inline) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        for change in &plan.extents {
            let inode = change.inode.as_bytes();
            for offset in &change.removed {
                clear.execute(params![self.bucket, inode, column(*offset)])?;
            }
            for (extent, inline) in &change.inserted {
                insert.execute(params![
                    self.bucket,
                    inode,
                    column(extent.offset),
                    column(extent.length),
                    extent.run.as_bytes(),
                    column(extent.run_length),
                    column(extent.run_offset),
                    cipher_code(extent.cipher),
                    extent.run_key.generation,
                    &extent.run_key.bytes[..],
                    inline,
                ])?;
            }
        }
        Ok(())
    }

    fn write_tags(&self, plan: &Plan) -> Result<(), Error> {
        let sql = "INSERT INTO tags (bucket, inode, window, tag) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (bucket, inode, window) DO UPDATE SET tag = excluded.tag";
        let mut set = self.connection.prepare_cached(sql)?;
        let sql = "DELETE FROM tags WHERE bucket = ?1 AND inode = ?2 AND window = ?3";
        let mut clear = self.connection.prepare_cached(sql)?;
        for (inode, window, tag) in &plan.tags {
            let inode = inode.as_bytes();
            match tag {
                Some(tag) => set.execute(params![self.bucket, inode, column(*window), &tag.0])?,
                None => clear.execute(params![self.bucket, inode, column(*window)])?,
            };
        }
        Ok(())
    }

    fn write_run(&self, run: RunId, change: &RunChange) -> Result<(), Error> {
        match change {
            RunChange::New { length, place, references } => {
                let new = NewRun { run, length: *length, place: place.clone() };
                self.insert_run(&new, *references)
            }
            RunChange::References(references) => {
                let sql = "UPDATE runs SET refs = ?3 WHERE bucket = ?1 AND run = ?2";
                let mut statement = self.connection.prepare_cached(sql)?;
                statement.execute(params![self.bucket, run.as_bytes(), column(*references)])?;
                Ok(())
            }
            RunChange::Removed => {
                for sql in [
                    "DELETE FROM runs WHERE bucket = ?1 AND run = ?2",
                    "DELETE FROM run_parts WHERE bucket = ?1 AND run = ?2",
                ] {
                    self.connection.prepare_cached(sql)?.execute(params![self.bucket, run.as_bytes()])?;
                }
                Ok(())
            }
        }
    }

    fn insert_run(&self, new: &NewRun, references: u64) -> Result<(), Error> {
        let inline = match &new.place {
            RunPlace::Inline(bytes) => Some(&bytes[..]),
            RunPlace::Segment { .. } => None,
        };
        let sql = "INSERT INTO runs (bucket, run, length, refs, inline) VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let run = new.run.as_bytes();
        statement.execute(params![self.bucket, run, column(new.length), column(references), inline])?;
        let RunPlace::Segment { segment, offset, length } = &new.place else { return Ok(()) };
        let sql = "INSERT INTO run_parts (bucket, run, first, count, segment, offset, length) \
                   VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let blocks = column(new.length.div_ceil(BLOCK_PLAIN));
        statement.execute(params![self.bucket, run, blocks, segment.as_bytes(), column(*offset), column(*length)])?;
        Ok(())
    }

    fn segments_of(&self, run: RunId) -> Result<Vec<SegmentId>, Error> {
        let sql = "SELECT segment FROM run_parts WHERE bucket = ?1 AND run = ?2 ORDER BY first";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.bucket, run.as_bytes()])?;
        let mut segments = Vec::new();
        while let Some(row) = rows.next()? {
            segments.push(id(row, 0)?);
        }
        Ok(segments)
    }
}

/// Extents of a file that intersect `from..to`, whole, sorted, at most `limit`.
pub(super) fn extents_between(
    connection: &Connection,
    bucket: i64,
    inode: InodeId,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Vec<Extent>, Error> {
    // Extents do not overlap, so the only one that reaches in from before is the last that starts there.
    let sql = concat!(
        "SELECT ",
        extent_columns!(),
        " FROM extents WHERE bucket = ?1 AND inode = ?2 AND offset >= coalesce((SELECT max(offset) FROM extents \
         WHERE bucket = ?1 AND inode = ?2 AND offset <= ?3), ?3) AND offset < ?4 ORDER BY offset LIMIT ?5"
    );
    if from >= to {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare_cached(sql)?;
    let limit = column(limit as u64);
    let mut rows = statement.query(params![bucket, inode.as_bytes(), column(from), column(to), limit])?;
    let mut extents = Vec::new();
    while let Some(row) = rows.next()? {
        let extent = extent_row(row, 0)?;
        if extent.end() > from {
            extents.push(extent);
        }
    }
    Ok(extents)
}

/// An inode from the columns `inode_columns!`, the first of them being column `at`.
pub(super) fn inode_row(row: &Row<'_>, at: usize) -> Result<InodeRow, Error> {
    let inode = Inode {
        inode: id(row, at)?,
        kind: kind(row, at + 1)?,
        version: number(row, at + 2)?,
        nlink: small(row, at + 3)?,
        size: number(row, at + 4)?,
        record: sealed(row, at + 5)?,
        changed: timestamp(row, at + 7)?,
        entries_changed: timestamp(row, at + 9)?,
    };
    Ok(InodeRow { inode, children: number(row, at + 11)? })
}

/// An extent from the columns `extent_columns!`, the first of them being column `at`.
pub(super) fn extent_row(row: &Row<'_>, at: usize) -> Result<Extent, Error> {
    let extent = Extent {
        offset: number(row, at)?,
        length: number(row, at + 1)?,
        run: id(row, at + 2)?,
        run_length: number(row, at + 3)?,
        run_offset: number(row, at + 4)?,
        cipher: cipher(row, at + 5)?,
        run_key: sealed(row, at + 6)?,
    };
    match extent.offset.checked_add(extent.length) {
        Some(_) => Ok(extent),
        None => Err(Error::Damaged("extent overflows".to_owned())),
    }
}
