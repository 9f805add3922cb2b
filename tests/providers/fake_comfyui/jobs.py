"""Generation B's view of prompts as jobs: `/api/jobs` and `/api/jobs/{id}`."""

from __future__ import annotations

from typing import Any

from tests.providers.fake_comfyui.life import Item, Life, Record

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_STATUS_OF = {
    "execution_success": "completed",
    "execution_error": "failed",
    "execution_interrupted": "cancelled",
}


def find_job(life: Life, prompt_id: str) -> dict[str, Any] | None:
    """One job with everything; None when the server does not know it."""
    with life.changed:
        if record := life.history.get(prompt_id):
            return {
                **_finished(record),
                "outputs": record.outputs,
                "execution_status": record.entry()["status"],
                "workflow": {"prompt": record.item[2], "extra_data": record.item[3]},
            }
        if life.running and life.running[1] == prompt_id:
            return _queued(life.running, "in_progress", with_workflow=True)
        if items := life.pending.get(prompt_id):
            return _queued(items[0], "pending", with_workflow=True)
    return None


def list_jobs(life: Life, query: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The answer to `/api/jobs` and its status."""
    wanted = query["status"].split(",") if query.get("status") else list(STATUSES)
    if unknown := [status for status in wanted if status not in STATUSES]:
        return {"error": f"Invalid status value(s): {', '.join(unknown)}"}, 400
    with life.changed:
        found = [_finished(record) for record in life.history.values()]
        found += [_queued(life.running, "in_progress")] if life.running else []
        found += [_queued(item, "pending") for item in sorted(life.heap, key=lambda item: item[0])]
    found = [job for job in found if job["status"] in wanted]
    found.sort(key=lambda job: job["create_time"], reverse=query.get("sort_order", "desc") == "desc")
    offset, limit = int(query.get("offset", 0)), int(query.get("limit", len(found) or 1))
    page = found[offset : offset + limit]
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": len(found),
        "has_more": offset + len(page) < len(found),
    }
    return {"jobs": page, "pagination": pagination}, 200


def _queued(item: Item, status: str, *, with_workflow: bool = False) -> dict[str, Any]:
    job = {
        "id": item[1],
        "status": status,
        "priority": item[0],
        "create_time": item[3]["create_time"],
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }
    return {**job, "workflow": {"prompt": item[2], "extra_data": item[3]}} if with_workflow else job


def _finished(record: Record) -> dict[str, Any]:
    last, details = record.messages[-1]
    files = [
        {**item, "nodeId": node_id, "mediaType": kind}
        for node_id, kinds in record.outputs.items()
        for kind, items in kinds.items()
        for item in items
        if isinstance(item, dict)
    ]
    job = {
        **_queued(record.item, _STATUS_OF[last]),
        "execution_start_time": record.messages[0][1]["timestamp"],
        "execution_end_time": details["timestamp"],
        "outputs_count": len(files),
        "previewable_outputs_count": len(files),
    }
    if last == "execution_error":
        job["execution_error"] = details
    if files:
        job["preview_output"] = files[0]
    return job
