//! The man page strewn(1), generated from the definition of the commands. A test keeps man/strewn.1 the same.

use clap_mangen::Man;
use std::io::Write;

/// Environment variable under which the test writes the page instead of comparing it.
const UPDATE: &str = "STREWN_UPDATE_MAN";

/// Renders the page: the program, then every command with its options.
pub(crate) fn render() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let definition = crate::cli::definition().disable_help_subcommand(true);
    let man = Man::new(definition.clone()).date("2026").source("strewn").manual("Strewn");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    commands(&definition, "strewn", &mut page)?;
    page.write_all(CLOSING.as_bytes())?;
    Ok(page)
}

fn commands(parent: &clap::Command, path: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
        let path = format!("{path} {}", command.get_name());
        let named = command.clone().bin_name(path.clone());
        writeln!(page, ".SS \"{path}\"")?;
        let about = named.get_long_about().or(named.get_about()).map(ToString::to_string).unwrap_or_default();
        writeln!(page, "{}", escape(&about))?;
        if named.has_subcommands() {
            commands(command, &path, page)?;
            continue;
        }
        let man = Man::new(named.disable_help_flag(true).disable_version_flag(true));
        let mut options = Vec::new();
        man.render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).into_owned();
        // The section's heading becomes a paragraph: the command has the heading already.
        let body: Vec<&str> =
            options.lines().filter(|line| !line.starts_with(".SH") && !line.starts_with(".ie")).collect();
        let body = body.into_iter().filter(|line| !line.starts_with(".el")).collect::<Vec<_>>().join("\n");
        writeln!(page, ".PP\n{body}")?;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    let lines = text.replace('\\', "\\\\").replace('-', "\\-");
    lines
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") })
        .collect()
}

const CLOSING: &str = r#".SH "JSON OUTPUT"
With \fB\-\-json\fR one object per line is printed on standard output. Fields may be added; those named here stay.
.TP
\fBstrewn umount\fR
\fBmountpoint\fR; \fBunmounted\fR: true or false; \fBpending\fR: what is not on the network, absent (null) for a stale
mount that was removed; \fBerror\fR: why it failed, or null.
.TP
\fBstrewn sync\fR
\fBmountpoint\fR; \fBsynced\fR: true or false; \fBpending\fR; \fBerror\fR.
.TP
\fBstrewn status\fR
of every drive \fBmountpoint\fR, \fBsource\fR, \fBpid\fR, \fBsocket\fR, \fBcache\fR (its directory);
\fBpending_files\fR, \fBpending_bytes\fR, \fBpending_operations\fR, \fBqueued_cuts\fR (commits on their way),
\fBsending_bytes\fR, \fBoldest_seconds\fR; \fBuploaded_bytes\fR, \fBfetched_bytes\fR, \fBupload_rate\fR (bytes a second);
\fBfailed_files\fR, \fBlast_error\fR (empty if none), \fBreachable\fR (the last request of
the cache was answered); \fBsatellite_reachable\fR (so was the last one to the satellite); \fBnodes_known\fR,
\fBnodes_reachable\fR, \fBnodes_unreachable\fR (storage nodes whose addresses the mount was given, how many of them
answered the last time that it asked them for something, and how many did not); \fBconflicts\fR,
\fBconflict_copies\fR (the newest, each with \fBpath\fR and \fBseconds\fR since 1970), \fBunauthentic\fR;
\fBlease\fR (\fBall\fR, \fBnames\fR or \fBnone\fR), \fBlease_names\fR (names held one by one), \fBlease_waits\fR
(requests for one that somebody waited for);
\fBcache_bytes\fR, \fBcache_budget\fR, \fBknown_inodes\fR, \fBlent_files\fR (read by the kernel past the mount),
\fBread_only\fR.
.TP
\fBstrewn cache status\fR
\fBdirectory\fR; \fBmountpoint\fR or null; of a mounted one \fBsource\fR and the fields of \fBstrewn status\fR; of another one
\fBbucket\fR, \fBroot\fR, \fBpending_files\fR, \fBpending_operations\fR, \fBpending_bytes\fR, \fBclean_bytes\fR,
\fBcache_bytes\fR.
.TP
\fBstrewn cache verify\fR
\fBdirectory\fR; \fBok\fR: true or false; \fBdamage\fR: a list of \fBwhat\fR and \fBreason\fR.
.TP
\fBstrewn cache clear\fR
\fBkept_operations\fR, \fBkept_files\fR, \fBkept_bytes\fR: what is pending and was kept.
.TP
\fBpending\fR
is an object of \fBfiles\fR, \fBbytes\fR, \fBchanges\fR (of names, attributes and content), \fBsending\fR (how many of the
bytes are on their way) and \fBrate\fR (bytes a second).
.SH "EXIT STATUS"
0 done, 1 failed, 2 used wrongly.
.SH FILES
.TP
~/.config/strewn/access/NAME
saved access grants
.TP
~/.cache/strewn
caches of mounted drives
.SH "SEE ALSO"
.BR strewn-semantics (7),
.BR mount (8),
.BR umount (8),
.BR fuse (4)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/strewn.1");
        let page = render().unwrap();
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let committed = std::fs::read(path).unwrap_or_default();
        assert!(committed == page, "man/strewn.1 is old: run this test with {UPDATE}=1");
    }

    const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    /// Sections of strewn-semantics(7) that hold promises: all but these.
    const OTHER_SECTIONS: [&str; 4] = ["NAME", "DESCRIPTION", "BUGS", "SEE ALSO"];

    /// What the page promises: each sentence with the test it names, if it does.
    fn promises(page: &str) -> Vec<(String, Option<String>)> {
        let (mut promises, mut section, mut sentence, mut table) = (Vec::new(), "", String::new(), false);
        let mut end = |sentence: &mut String, test: Option<&str>| {
            if !sentence.is_empty() {
                promises.push((std::mem::take(sentence), test.map(str::to_owned)));
            }
        };
        for line in page.lines() {
            if let Some(test) = line.strip_prefix(".\\\" test: ") {
                end(&mut sentence, Some(test));
            } else if line.starts_with(".TS") || line.starts_with(".TE") {
                table = line.starts_with(".TS");
            } else if line.starts_with(['.', '\'']) {
                end(&mut sentence, None);
                section = line.strip_prefix(".SH ").map_or(section, |name| name.trim_matches('"'));
            } else if !table && !OTHER_SECTIONS.contains(&section) {
                sentence = format!("{sentence} {line}").trim_start().to_owned();
            }
        }
        end(&mut sentence, None);
        promises
    }

    /// True if a file of the source tree has a test of that name.
    fn is_a_test(place: &str) -> bool {
        let Some((file, name)) = place.split_once("::") else { return false };
        let source = std::fs::read_to_string(format!("{SOURCES}/{file}")).unwrap_or_default();
        let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
        let function = |line: &str| {
            let line = line.strip_prefix("async ").unwrap_or(line);
            line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
        };
        let at = lines.iter().position(|line| function(line));
        at.and_then(|at| at.checked_sub(1))
            .is_some_and(|before| lines[before].starts_with("#[test]") || lines[before].starts_with("#[tokio::test"))
    }

    #[test]
    fn every_promise_names_a_test_that_exists() {
        let page = std::fs::read_to_string(format!("{SOURCES}/man/strewn-semantics.7")).unwrap();
        let promises = promises(&page);
        assert!(promises.len() > 30, "{}", promises.len());
        for (sentence, test) in promises {
            let test = test.unwrap_or_else(|| panic!("no test is named for: {sentence}"));
            assert!(is_a_test(&test), "{test} is no test: {sentence}");
            assert!(sentence.ends_with('.') && !sentence.contains(". "), "one sentence at a time: {sentence}");
        }
    }

    #[test]
    fn a_promise_without_a_test_would_be_found() {
        let page = ".SH LIMITS\nProven.\n.\\\" test: a.rs::b\n.PP\nNot proven.\n.SH NAME\nNo promise.\n";
        let expected = [("Proven.".to_owned(), Some("a.rs::b".to_owned())), ("Not proven.".to_owned(), None)];
        assert_eq!(promises(page), expected);
        assert!(is_a_test("fs/cli/src/man.rs::a_promise_without_a_test_would_be_found"));
        assert!(!is_a_test("fs/cli/src/man.rs::render") && !is_a_test("nowhere.rs::nothing"));
    }
}
