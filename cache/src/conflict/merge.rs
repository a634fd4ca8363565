//! Attributes that both sides changed: field by field, what only one side changed since they agreed is as that side has it.
//! Where both changed the same, it is as this mount has it, which comes later.

use std::collections::BTreeSet;
use std::sync::Arc;
use strewn_engine::record::{Attributes, Xattrs, check_xattrs};

/// Merges the attributes from here into theirs. `with_content`: the content will be theirs although it was changed here too, so
/// its time is theirs as well.
///
/// The size goes with the content and is not merged. Extended attributes that are too many or too large together stay as they
/// are here.
pub(super) fn merge(base: &Attributes, ours: &Attributes, theirs: &Attributes, with_content: bool) -> Attributes {
    let xattrs = merge_xattrs(&base.xattrs, &ours.xattrs, &theirs.xattrs);
    let mtime = if with_content { theirs.mtime } else { newer(&base.mtime, &ours.mtime, &theirs.mtime) };
    Attributes {
        mode: newer(&base.mode, &ours.mode, &theirs.mode),
        uid: newer(&base.uid, &ours.uid, &theirs.uid),
        gid: newer(&base.gid, &ours.gid, &theirs.gid),
        atime: newer(&base.atime, &ours.atime, &theirs.atime),
        mtime,
        ctime: ours.ctime.max(theirs.ctime),
        btime: newer(&base.btime, &ours.btime, &theirs.btime),
        xattrs: if check_xattrs(&xattrs).is_ok() { Arc::new(xattrs) } else { ours.xattrs.clone() },
        ..ours.clone()
    }
}

/// A value as this side has it if this side changed it, else as the other has it.
fn newer<T: Clone + PartialEq>(base: &T, ours: &T, theirs: &T) -> T {
    if ours == base { theirs.clone() } else { ours.clone() }
}

fn merge_xattrs(base: &Xattrs, ours: &Xattrs, theirs: &Xattrs) -> Xattrs {
    let names: BTreeSet<&Vec<u8>> = ours.keys().chain(theirs.keys()).collect();
    let merged = |name: &Vec<u8>| newer(&base.get(name), &ours.get(name), &theirs.get(name)).cloned();
    names.into_iter().filter_map(|name| Some((name.clone(), merged(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::tests::attributes;
    use bytes::Bytes;
    use strewn_engine::bucket::Kind;
    use strewn_engine::record::MAX_XATTR_VALUE;

    fn xattrs(pairs: &[(&str, &str)]) -> Xattrs {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), Bytes::copy_from_slice(value.as_bytes()))).collect()
    }

    #[test]
    fn of_extended_attributes_each_is_as_the_side_has_it_that_changed_it() {
        let base = xattrs(&[("kept", "0"), ("removed here", "0"), ("removed there", "0"), ("both", "0")]);
        let ours = xattrs(&[("kept", "0"), ("removed there", "0"), ("both", "1"), ("made here", "1")]);
        let theirs = xattrs(&[("kept", "0"), ("removed here", "0"), ("both", "2"), ("made there", "2")]);
        let merged = xattrs(&[("kept", "0"), ("both", "1"), ("made here", "1"), ("made there", "2")]);
        assert_eq!(merge_xattrs(&base, &ours, &theirs), merged);
    }

    fn with(xattrs: Xattrs) -> Attributes {
        Attributes { xattrs: Arc::new(xattrs), ..attributes(Kind::File) }
    }

    #[test]
    fn what_is_too_much_together_stays_as_it_is_here() {
        let large = |name: &str| Xattrs::from([(name.as_bytes().to_vec(), Bytes::from(vec![0; MAX_XATTR_VALUE]))]);
        let (base, ours) = (with(Xattrs::new()), with(large("user.here")));
        let theirs = Attributes { mode: 0o600, ..with(large("user.there")) };
        let merged = merge(&base, &ours, &theirs, false);
        assert_eq!((merged.mode, merged.xattrs), (0o600, ours.xattrs));
    }
}
