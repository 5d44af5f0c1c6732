"""Uploading an export to a dataset repository of the Hugging Face Hub."""

import os
import re
from pathlib import Path
from typing import Any

from seggen_core.errors import ExportError

TOKEN = "HF_TOKEN"  # noqa: S105 (the name of a variable)
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_push(repo: str) -> str:
    """Return the token of the environment, before anything is exported.

    Raises:
        ExportError: `repo` is no name of a repository, or the environment has no token.
    """
    if not _REPO.fullmatch(repo):
        raise ExportError(f"--push is {repo!r}; expected the name of a repository: USER/NAME")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ExportError(
            f"--push needs a token with the right to write in the variable {TOKEN}, and it is not "
            "set (https://huggingface.co/settings/tokens)"
        )
    return token


def push(folder: Path, *, repo: str, token: str, public: bool) -> str:
    """Upload a folder in one commit, and return the address of the repository.

    The repository is made if there is none. HF_ENDPOINT names another Hub.

    Args:
        folder: the finished export.
        repo: "user/name".
        token: with the right to write.
        public: anybody may see the repository; else only those who may now.

    Raises:
        ExportError: the Hub refuses or can't be reached, or the repository is public and `public`
            is off. The export itself is finished.
    """
    from huggingface_hub import HfApi

    # That of its HTTP client, and base of its own ones.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    api: Any = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        url = api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        if not public and not api.repo_info(repo, repo_type="dataset").private:
            raise ExportError(
                f"{repo} is public, so everybody would see the samples; nothing was uploaded. Give "
                "--public to allow it, or name another repository"
            )
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=str(folder),
            commit_message="Upload samples exported by seggen",
        )
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        # Without --private, a repository that `hf` makes is public.
        private = "" if public else " --private"
        reason = " ".join(str(error).split())
        raise ExportError(
            f"the Hub didn't take {repo}: {reason}. The export is finished in {folder}; upload it "
            f"with: hf upload {repo} {folder} . --repo-type dataset{private}"
        ) from error
    return str(url)
