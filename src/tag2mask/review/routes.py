"""The API of the page. Images are addressed by their index in the list, so requests contain no paths."""

import gzip
import io
import json
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
from flask import Blueprint, Response, jsonify, render_template, request
from PIL import Image
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    LengthRequired,
    NotFound,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.data.corrections import Decision, Verdict
from tag2mask.data.images import class_colour, css, read_small
from tag2mask.report.pictures import heat_colours
from tag2mask.review.assist import Assistant, Prompt
from tag2mask.review.image_list import Order, Query, State
from tag2mask.review.session import OutdatedError, Session, Stored

THUMBNAIL, PICTURE = 192, 4096
"""Maximum longer sides of images for the browser, in pixels; masks are not reduced."""

PAGE = 100
"""Maximum number of images in one answer."""

JSON_BYTES = 64 * 1024
"""The largest JSON body."""

PROMPTS = 100
"""Maximum number of points of one object."""


def reading_routes(session: Session) -> Blueprint:
    """The routes that only read. The browser may cache a picture requested with the version of its image, ``of``."""
    routes = Blueprint("reading", __name__)

    @routes.get("/review")
    def review() -> Response:
        classes = [{"id": n, "name": name, "colour": class_colour(n)} for n, name in enumerate(session.classes, 1)]
        return jsonify(
            classes=classes,
            heat=[css(colour) for colour in heat_colours()],
            layers=[{"name": layer.name, "title": layer.title} for layer in session.layers.values()],
            ranked=bool(session.list.ranking.by_id),
            counts=session.list.counts(),
            total=len(session.list),
            page=PAGE,
            tagged=session.list.tag_counts(),
        )

    @routes.get("/images")
    def images() -> Response:
        query = _query(session)
        before = _number("before", 0) if "before" in request.args else None
        page = session.list.page(query, after=_number("after", -1), before=before, count=PAGE)
        listed = [_listed(session, index, rank) for index, rank in zip(page.indices, page.ranks, strict=True)]
        return jsonify(total=page.total, more=page.more, images=listed, counts=session.list.counts())

    @routes.get("/index")
    def index_of() -> Response:
        index = session.list.index(request.args.get("id", ""))
        if index is None:
            raise NotFound("no image of this review has that ID")
        return jsonify(index=index, rank=session.list.rank(index, _query(session).order))

    @routes.get("/images/<int:index>")
    def details(index: int) -> Response:
        return jsonify(_details(session, index))

    @routes.get("/images/<int:index>/<any(thumbnail, picture):kind>")
    def picture(index: int, kind: str) -> Response:
        side = THUMBNAIL if kind == "thumbnail" else PICTURE
        path, version = session.list.item(index).path, session.image_version(index)
        pixels = read_small(path, side, pixel_limit=session.pixel_limit, intensity=session.intensity)
        answer = _jpeg(pixels, quality=80 if kind == "thumbnail" else 92)
        if request.args.get("of") == version:
            answer.headers["Cache-Control"] = "private, max-age=600"
        return answer

    @routes.get("/images/<int:index>/labels/<name>")
    def labels(index: int, name: str) -> Response:
        side = _number("side", 0)
        return _raw(session.labels(index, name, side if side > 0 else None))

    @routes.get("/images/<int:index>/heat/<name>/<int:class_id>")
    def heat(index: int, name: str, class_id: int) -> Response:
        return _raw(session.heat(index, name, class_id))

    return routes


def writing_routes(session: Session) -> Blueprint:
    """The routes that change a decision; they answer with the new state.

    With ``of``, the version of the image, and ``seen``, the version of its decision, a request is refused where the
    image or the decision has changed since the page read it.
    """
    routes = Blueprint("writing", __name__)

    def changed(index: int, stored: Stored) -> Response:
        decided = _decided(session, index, stored.decision)
        return jsonify(**decided, decision_version=stored.version, counts=session.list.counts())

    @routes.put("/images/<int:index>/mask")
    def mask(index: int) -> Response:
        verdict = request.args.get("verdict", "")
        if verdict not in ("accepted", "corrected"):
            raise BadRequest("verdict should be accepted or corrected")
        _refuse_another_image(session, index)
        height, width = session.size(index)
        values = np.frombuffer(_body(height * width, exact=True), dtype=np.uint8).reshape(height, width)
        return changed(index, session.save_mask(index, cast("Verdict", verdict), values, seen=request.args.get("seen")))

    @routes.put("/images/<int:index>/verdict")
    def verdict(index: int) -> Response:
        value = _json("verdict")
        if value not in (None, "rejected"):
            raise BadRequest("verdict should be rejected or null; send accepted and corrected with a mask")
        return changed(index, session.delete_mask(index, value, seen=request.args.get("seen")))

    @routes.put("/images/<int:index>/tags")
    def tags(index: int) -> Response:
        value = _json("tags")
        if value is not None and not (isinstance(value, list) and all(type(tag) is int for tag in value)):
            raise BadRequest("tags should be a list of class ids, or null for those of the data set")
        return changed(index, session.change_tags(index, value, seen=request.args.get("seen")))

    return routes


def assist_routes(session: Session, assistant: Assistant) -> Blueprint:
    """The routes of the masks of objects. They change nothing; ``of`` is the version of the image, as for a mask."""
    routes = Blueprint("assist", __name__)

    @routes.get("/images/<int:index>/encoding")
    def encoding(index: int) -> Response:
        _refuse_another_image(session, index)
        assistant.encode(session.list.item(index).path)
        return jsonify()

    @routes.get("/images/<int:index>/object")
    def mask_of_object(index: int) -> Response:
        _refuse_another_image(session, index)
        prompt = _prompt(*session.size(index))
        return _raw(assistant.mask(session.list.item(index).path, prompt))

    return routes


def _refuse_another_image(session: Session, index: int) -> None:
    if request.args.get("of") not in (None, session.image_version(index)):
        raise OutdatedError(
            f"the image {session.list.item(index).id} has changed since this page opened it: reload the page"
        )


def _prompt(height: int, width: int) -> Prompt:
    """The query parameters ``points`` and ``box``, as JSON, on an image of this size."""
    try:
        points = [(float(x), float(y), label) for x, y, label in json.loads(request.args.get("points", "[]"))]
        corners = [float(value) for value in json.loads(request.args.get("box", "[]"))]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadRequest("points should be [[x, y, 1 or 0], …] and box [x1, y1, x2, y2], in pixels") from error
    box = (corners[0], corners[1], corners[2], corners[3]) if len(corners) == 4 else None
    places = [*(point[:2] for point in points), *([box[:2], box[2:]] if box else ())]
    if not all(0 <= x <= width and 0 <= y <= height for x, y in places):
        raise BadRequest(f"points and box should be inside the image, {width} × {height} pixels")
    if len(points) > PROMPTS or any(label not in (0, 1) for _, _, label in points):
        raise BadRequest(f"at most {PROMPTS} points are allowed, each with 1 on the object or 0 outside it")
    if (corners and box is None) or (box and not (box[0] < box[2] and box[1] < box[3])):
        raise BadRequest("box should be [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
    if box is None and not any(label == 1 for _, _, label in points):
        raise BadRequest("an object needs a point on it, or a box around it")
    return Prompt(tuple(points), box)


def _details(session: Session, index: int) -> dict[str, Any]:
    item, decision, fault_of_decision = session.list.item(index), None, None
    image_version, decision_version = session.image_version(index), session.corrections.version(item.id)
    try:
        decision = session.decision(index)
    except Tag2maskError as error:
        fault_of_decision = str(error)
    try:
        size, fault = session.size(index), None
    except (Tag2maskError, OSError) as error:
        size, fault = None, str(error)
    layers = [
        {"name": layer.name, "title": layer.title, "labels": layer.has_labels(item), "heats": layer.heats(item)}
        for layer in session.layers.values()
        if layer.has(item)
    ]
    start = session.start(index)
    ranked, shown = session.list.ranked(index), None
    if ranked is not None:
        shown = {"confidence": ranked.confidence, "class_name": ranked.class_name, "reason": ranked.reason}
    return {
        "index": index,
        "id": item.id,
        "size": size,
        "fault": fault,
        "fault_of_decision": fault_of_decision,
        "own_tags": item.tags,
        "layers": layers,
        "start": start.name,
        "start_version": start.version,
        "ranked": shown,
        "image_version": image_version,
        "decision_version": decision_version,
        **_decided(session, index, decision),
    }


def _decided(session: Session, index: int, decision: Decision | None) -> dict[str, Any]:
    verdict, at = (decision.verdict, decision.at) if decision else (None, "")
    tags = session.list.tags(index)
    return {"verdict": verdict, "tags": tags, "other_tags": session.list.has_other_tags(index), "at": at}


def _listed(session: Session, index: int, rank: int) -> dict[str, Any]:
    try:
        decision = session.decision(index)
    except (Tag2maskError, OSError):
        decision = None  # the page of the image shows the error
    listed = _decided(session, index, decision)
    ranked = session.list.ranked(index)
    return {
        "index": index,
        "rank": rank,
        "id": session.list.item(index).id,
        "image_version": session.image_version(index),
        "ranked": ranked is not None,
        "confidence": ranked.confidence if ranked is not None else None,
        **listed,
    }


def _query(session: Session) -> Query:
    class_id, state, order = _number("class", 0), request.args.get("state") or None, request.args.get("order", "list")
    if not 0 <= class_id <= len(session.classes):
        raise BadRequest(f"class should be 1 to {len(session.classes)}")
    if state is not None and state not in get_args(State):
        raise BadRequest(f"state should be one of {', '.join(get_args(State))}")
    if order not in get_args(Order):
        raise BadRequest(f"order should be one of {', '.join(get_args(Order))}")
    find = request.args.get("find", "").strip()
    return Query(class_id or None, cast("State | None", state), find, cast("Order", order))


def _number(name: str, default: int) -> int:
    try:
        return int(request.args.get(name) or default)
    except ValueError as error:
        raise BadRequest(f"{name} should be a whole number") from error


def _body(most: int, *, exact: bool = False) -> bytes:
    """The body of the request; its length is checked before it is read."""
    length = request.content_length
    if length is None:
        raise LengthRequired("the request has no content length")
    if length > most:
        raise RequestEntityTooLarge(f"the body has {length} bytes, the limit is {most}")
    if exact and length != most:
        raise BadRequest(f"the body has {length} bytes, the mask of this image has {most}")
    request.max_content_length = most
    return request.get_data()


def _json(name: str) -> Any:
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(f"the body should be application/json, received {request.mimetype!r}")
    try:
        body = json.loads(_body(JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body could not be read as JSON, or is nested too deeply") from error
    if not isinstance(body, dict) or name not in body:
        raise BadRequest(f"the body should be an object with {name!r}")
    return body[name]


def _raw(values: npt.NDArray[np.uint8]) -> Response:
    """uint8 (h, w) as raw bytes; decoding an image format in the browser could change values."""
    answer = Response(gzip.compress(values.tobytes(), compresslevel=1), mimetype="application/octet-stream")
    answer.headers["Content-Encoding"] = "gzip"
    answer.headers["X-Height"], answer.headers["X-Width"] = map(str, values.shape)
    return answer


def _jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> Response:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality, subsampling=0)
    return Response(content.getvalue(), mimetype="image/jpeg")


def error_answer(error: Exception) -> tuple[Response | str, int]:
    """An error with its status code: a page for a person who opens an address, otherwise JSON, {"error": …}."""
    if isinstance(error, HTTPException):
        code, message = error.code or 500, error.description or error.name
    elif isinstance(error, IndexError):
        code, message = 404, "the list has no image at this index"
    elif isinstance(error, OutdatedError):
        code, message = 409, str(error)
    elif isinstance(error, UsageError):
        code, message = 400, str(error)
    elif isinstance(error, OSError):  # a full disk, too, which is both
        where = f": {error.filename}" if error.filename else ""
        code, message = 500, f"{error.strerror or error}{where}"
    elif isinstance(error, Tag2maskError):
        code, message = 422, str(error)
    else:
        code, message = 500, f"unexpected {type(error).__name__}: {error}"
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        return render_template("error.html", message=message), code
    return jsonify(error=message), code
