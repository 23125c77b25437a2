// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl doctor`.

use super::Context;
use crate::cli::DoctorArgs;
use crate::error::{Error, Kind, Result};
use crate::finding::{Finding, Severity};
use crate::group::Group;
use crate::page::{self, Evidence, Verdict};
use crate::paint::Paint;
use crate::setup::Facts;
use crate::snapshot::{Scope, Snapshot};
use crate::{setting, shortfall};
use comfy_table::Color;
use serde::Serialize;

#[derive(Serialize)]
struct Report<'a> {
    facts: &'a Facts,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct OnePage<'a> {
    #[serde(flatten)]
    evidence: &'a Evidence,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

pub(super) fn run(cx: &Context, args: &DoctorArgs) -> Result<()> {
    match (args.pid, &args.addr) {
        (Some(pid), Some(addr)) => one_page(cx, args, pid, page::address(addr)?),
        _ => system(cx, args),
    }
}

fn one_page(cx: &Context, args: &DoctorArgs, pid: u32, addr: u64) -> Result<()> {
    cx.system.require_mirror()?;
    let mut evidence = Evidence::collect(&cx.system, pid, addr)?;
    if args.sync {
        setting::sync(&cx.system, &evidence.cgroup)?;
        evidence = Evidence::collect(&cx.system, pid, addr)?;
    }
    let verdict = evidence.verdict();
    let shown = OnePage {
        evidence: &evidence,
        verdict: &verdict,
    };
    cx.print(&shown, |paint| {
        lines(std::slice::from_ref(&verdict.finding), paint)
    })
}

fn system(cx: &Context, args: &DoctorArgs) -> Result<()> {
    let mut groups: Vec<Group> = Vec::new();
    if cx.system.require_mirror().is_ok() {
        if let Some(path) = &args.path {
            let path = cx.resolve(Some(path))?;
            if args.sync {
                setting::sync(&cx.system, &path)?;
            }
            groups.push(cx.group(&path)?);
        } else {
            let all = Snapshot::take(&cx.system, "/", Scope::Set)?.groups;
            groups.extend(all.into_iter().filter(Group::is_governor));
        }
    }
    let facts = Facts::collect(&cx.system, &groups)?;
    let mut findings = facts.findings();
    if facts.region.is_some() && groups.is_empty() {
        findings.push(Finding::note(
            "no cgroup is protected",
            "`kmirrorctl on PATH` protects one",
        ));
    }
    findings.extend(groups.iter().flat_map(shortfall::findings));
    let report = Report {
        facts: &facts,
        findings: &findings,
    };
    cx.print(&report, |paint| lines(&findings, paint))?;
    if findings
        .iter()
        .any(|finding| finding.severity == Severity::Fault)
    {
        return Err(Error::new(Kind::Faults, ""));
    }
    Ok(())
}

/// One line for each, and one for what to do.
fn lines(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for finding in findings {
        let (mark, color) = match finding.severity {
            Severity::Good => ("ok    ", Color::Green),
            Severity::Note => ("note  ", Color::Yellow),
            Severity::Fault => ("FAULT ", Color::Red),
        };
        text.push_str(&paint.text(mark, color, true));
        text.push_str(&finding.what);
        text.push('\n');
        if !finding.next.is_empty() {
            text.push_str(&format!("      -> {}\n", finding.next));
        }
    }
    text
}
